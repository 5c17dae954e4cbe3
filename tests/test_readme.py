"""The README tells the truth: every block runs, and its tables come from the code."""

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from conftest import tiny_config
from faults import Life, draw_curves
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from hf_semfocus import mechanisms
from hf_semfocus.benchmark import summary
from hf_semfocus.cli.command import main as semfocus
from hf_semfocus.data import tasks
from hf_semfocus.reports.conclusion import conclusion

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
SMALL = {
    "pretrain": "--train_size 50 --eval_size 20 --epochs 1 --num_layers 1 --hidden_size 8 --intermediate_size 8 "
    "--cpu_threads 1 --output_dir out",
    "finetune": "--train_size 20 --eval_size 10 --epochs 1 --cpu_threads 1 --output_dir out",
    "compare": "--tokens 64 --block_size 16 --cpu_threads 1",
    "analyze": "--rows 2 --sentences 1 --output_dir out",
    "bench": "--threads 1 --repeats 1 --no_memory --no_models --no_peers --cases 25,1,40,64",
}
"""What makes a command small, by its name."""
WRITTEN = {"report.md", "curves.png", "metrics.jsonl", "config.yaml"}


def mechanism_row(name):
    """One line of the README's table of mechanisms, from the class itself."""
    cls = mechanisms.get(name)
    sentence = " ".join(cls.__doc__.split("\n\n")[0].split())
    parameters = ", ".join(f"`{name}` ({mechanisms.fields(cls)[name].default})" for name in mechanisms.parameters(cls))
    return f"| `{name}` | {sentence.removeprefix('Every query keeps ').rstrip('.')} | {parameters} |"


@pytest.mark.parametrize("name", mechanisms.names())
def test_table_of_mechanisms(name):
    assert mechanism_row(name) in README.splitlines()


def test_list_of_tasks():
    listed = re.search(r"^Tasks: (.*?)\.", README, re.MULTILINE | re.DOTALL).group(1)
    assert re.findall(r"`(\w+)`", listed) == tasks.names()


def test_table_of_speeds_is_what_was_measured():
    made, table = re.search(r"<!-- made by: python (.*?) -->\n(.*?)\n<!-- end -->", README, re.S).groups()
    [pattern] = re.findall(r"^recipes/bench.py --summary (recipes/results/\S+\.json)$", made)
    files = sorted(ROOT.glob(pattern))
    assert table == summary([json.loads(file.read_text()) for file in files])
    for file in files:  # each processor's report is linked
        assert f"(recipes/results/{file.stem}.md)" in README


def test_every_block_is_of_a_kind_that_runs():
    assert {language for language, _ in BLOCKS} == {"bash", "python"}


@pytest.fixture
def gpt2(tmp_path):
    """A tiny random model and a tokenizer of its own in a folder named gpt2."""
    words = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<unk>", "the", "quick", "brown", "fox"])}, "<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path / "gpt2")
    AutoModelForCausalLM.from_config(tiny_config("gpt2", n_positions=1024)).save_pretrained(tmp_path / "gpt2")


@pytest.mark.usefixtures("gpt2")
def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    records = [
        {"kind": kind, "run": run, "epoch": epoch, "eval_accuracy": 0.5}
        for kind, epochs in (("step", 1), ("epoch", 2))
        for run in ("sdpa/1", "topk_sparse:k=5/1")
        for epoch in range(1, 1 + epochs)
    ]
    (tmp_path / "outputs" / "even_pairs-paper").mkdir(parents=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "outputs" / "even_pairs-paper" / "metrics.jsonl").write_text(lines)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    registered = dict(mechanisms.registry._REGISTRY)
    try:
        for number, (language, block) in enumerate(BLOCKS):
            if language == "python":
                exec(compile(block, f"README.md, block {number}", "exec"), namespace)
    finally:
        mechanisms.registry._REGISTRY.clear()
        mechanisms.registry._REGISTRY.update(registered)


def test_conclusion_is_that_of_the_table():
    [quoted] = re.findall(r"^(> `topk_sparse.*?)\n\n", README, re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in README.splitlines() if "| never " in line]
    rows += [[cell.strip() for cell in line.split("|")[1:3]] for line in README.splitlines() if "| 1000  " in line]
    found = {attention: None if epochs == "never" else {"epoch": int(epochs)} for attention, epochs in rows}
    assert list(found.values()) == [None, None, {"epoch": 5}]
    order = ["sdpa", "topk_sparse:k=5", "banded_sparse:window=5"]
    results = [{"attention": name, "seed": 0, "reached": found[name], "epoch": 60} for name in order]
    assert quoted.replace(">", "").split() == conclusion(results, {"target_accuracy": 0.95}).split()


def test_set_up_is_two_commands():
    assert COMMANDS[0].startswith("git clone ")
    main, test = (line.split(" && ") for line in COMMANDS if "-m venv" in line)
    assert main[-1] == ".venv/bin/accelerate launch recipes/pretrain.py"
    assert test[-1] == ".venv/bin/pytest -n 2"
    assert sum("pytest" in line for line in COMMANDS) == 1


@pytest.fixture
def place(tmp_path):
    """A folder as the README's reader has it, with small stand-ins for what is downloaded."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film"])}
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path / "minilm")
    AutoModel.from_config(tiny_config("bert")).save_pretrained(tmp_path / "minilm")
    (tmp_path / "movie").mkdir()
    for split in ("train", "validation"):
        rows = [f"{word} film {word},{label}" for word, label in (("good", "positive"), ("bad", "negative")) * 12]
        (tmp_path / "movie" / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return tmp_path


LAUNCHED = [line.split(" && ")[-1] for line in COMMANDS if "launch" in line]


def test_first_recipe_command_runs(place):
    """As it stands, after the installation, on a smaller model and fewer examples."""
    script, *given = shlex.split(f"{LAUNCHED[0]} {SMALL['pretrain']}")
    assert script == ".venv/bin/accelerate"
    command = [str(Path(sys.executable).with_name("accelerate")), *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in (place / "out").iterdir()} >= WRITTEN


@pytest.mark.parametrize("command", LAUNCHED[1:])
def test_other_recipe_commands_run(command, place, monkeypatch):
    """Each as it stands but for its size, in as many processes as the launcher reads from it."""
    script, launch, *given = shlex.split(command)
    assert (script, launch) == (".venv/bin/accelerate", "launch")
    monkeypatch.chdir(place)
    launched, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    recipe = Path(launched.training_script)
    assert recipe.parent.samefile(ROOT / "recipes")
    args = [*launched.training_script_args, *SMALL[recipe.stem].split()]
    world = max(1, launched.num_processes)  # 0 where there is no GPU
    life = Life(recipe.stem, args, partial(os.chdir, place), draw_curves, world=world, log=place / "log")
    assert set(life.end()) == {0}, life.errors
    assert {path.name for path in (place / "out").iterdir()} >= WRITTEN


@pytest.mark.usefixtures("gpt2")
@pytest.mark.parametrize("command", [line for line in COMMANDS if "/semfocus" in line])
def test_commands_of_the_package_run(command, tmp_path, monkeypatch, capsys):
    """Each as it stands but for its size, in a folder without a checkout."""
    script, name, *options = shlex.split(command)
    assert script == ".venv/bin/semfocus"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit) if options == ["--help"] else nullcontext() as ended:
        semfocus([name, *options, *shlex.split(SMALL.get(name, ""))])
    assert ended is None or ended.value.code == 0
    assert capsys.readouterr().out.count("\n") > 5


@pytest.mark.parametrize("command", [line for line in COMMANDS if "recipes/prepare" in line])
def test_preparing_commands_name_scripts_that_say_what_to_download(command):
    """``test_prepare`` runs them on small archives; here that README and script agree about the download."""
    script = command.split()[1]
    done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True)
    [download] = re.findall(r"^ +pip (.+?) (?:-d|gt-)", done.stdout, re.MULTILINE)
    assert any(f".venv/bin/pip {download} " in line for line in COMMANDS)
