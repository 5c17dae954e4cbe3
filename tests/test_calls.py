"""The table of supported calls: every test it names is run by default, on the models it names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "model_cards" / "SUPPORTED_CALLS.md").read_text().splitlines()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES if line.startswith("| ")][2:]
NAMES = {"gpt2": "GPT-2", "llama": "LLaMA", "bert": "BERT", "t5": "T5", "sliding": "Mistral"}
CALLS = [
    *("greedy", "sampling", "beam", "assisted", "lookup", "dynamic", "static", "sliding", "quantized", "padding"),
    *("packed", "continuous", "output_attentions", "float16", "bfloat16", "autocast", "checkpointing", "compile"),
    *("export", "device_map", "weights", "LoRA", "prefix", "prompt", "merge", "Trainer", "resume", "load_best"),
    *("pipeline", "deepcopy", "pickle", "settings", "configuration", "load_checkpoint_and_dispatch"),
]
"""Words of the calls that a user of Transformers may make."""


class Collected:
    """A plugin of pytest that keeps what was collected."""

    def __init__(self):
        self.ids = []

    def pytest_collection_finish(self, session):
        self.ids = [item.nodeid for item in session.items]


@pytest.fixture(scope="module")
def collected():
    """The tests that run by default of those that the table names."""
    plugin, tests = Collected(), [f"{ROOT}/{row[3].strip('`')}" for row in ROWS]
    options = ["--collect-only", "--quiet", f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    pytest.main([*options, *tests], plugins=[plugin])
    return plugin.ids


@pytest.mark.parametrize("row", ROWS, ids=[row[3].split("::")[-1].strip("`") for row in ROWS])
def test_every_test_is_run_on_the_models_of_its_row(row, collected):
    _, result, models, test = row
    assert result in ("works", "refused")
    runs = [name for name in collected if name.split("[")[0] == test.strip("`")]
    assert runs, f"{test} is not collected"
    parameters = {word for name in runs for word in re.split(r"[-\[\]]", name.partition("[")[2])}
    if known := {name for key, name in NAMES.items() if parameters & {key, key.upper()}}:
        assert set(models.split(", ")) & set(NAMES.values()) == known


def test_no_call_is_missing():
    text = " ".join(row[0] for row in ROWS)
    assert [word for word in CALLS if word not in text] == []
    assert len({row[3] for row in ROWS}) == len(ROWS)
