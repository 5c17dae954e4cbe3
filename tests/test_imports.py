"""Imports point one way, and importing the package stays light."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hf_semfocus"

# who may import whom, from the bottom up; everything else of the package is above
LAYERS = {
    "messages": set(),
    "files": set(),
    "json_lines": {"files"},
    "kinds": set(),
    "lazy": set(),
    "machine": set(),
    "memory": set(),
    "tables": set(),
    "console": {"files", "messages"},
    "figures": set(),
    "attention": set(),
    "mechanisms": {"attention", "messages"},
    "backends": {"attention", "machine", "mechanisms", "messages", "tables"},
    "functional": {"attention", "backends", "mechanisms"},
    "hf": {"attention", "backends", "functional", "mechanisms", "messages", "tables"},
    "models": {"kinds", "mechanisms", "hf", "messages"},
    "hub_client": {"files"},
    "adapters": {"kinds", "mechanisms", "hf", "hub_client", "messages"},
    "hub": {"adapters", "kinds", "mechanisms", "hf", "hub_client", "files", "machine", "messages"},
    "data": {"files", "lazy", "messages"},
    "quantities": set(),
    "metrics": {"quantities"},
    "analysis": {
        "console",
        "attention",
        "backends",
        "data",
        "figures",
        "files",
        "json_lines",
        "lazy",
        "hf",
        "mechanisms",
        "messages",
        "tables",
    },
    "reports": {"analysis", "figures", "metrics", "tables"},
    "training": {
        "analysis",
        "console",
        "data",
        "files",
        "json_lines",
        "hf",
        "machine",
        "mechanisms",
        "memory",
        "messages",
        "metrics",
        "quantities",
    },
    "grid": {"console", "files", "json_lines", "messages", "training"},
    "benchmark": {
        "attention",
        "backends",
        "data",
        "figures",
        "hf",
        "machine",
        "mechanisms",
        "memory",
        "messages",
        "models",
        "tables",
    },
    "experiments": {
        *("adapters", "analysis", "backends", "console", "data", "files", "grid", "hf", "hub", "hub_client", "kinds"),
        *("machine", "mechanisms", "messages", "metrics", "models", "reports", "tables", "training"),
    },
    "lm_eval": {"console"},
    "cli": {
        *("__version__", "analysis", "attention", "backends", "benchmark", "console", "data", "experiments", "files"),
        *("functional", "grid", "hf", "kinds", "machine", "mechanisms", "messages", "models", "reports", "tables"),
        "training",
    },
}


def imported(path):
    """Names of the package's own parts that a file imports, resolved from its place."""
    here = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            targets = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "hf_semfocus" and len(target) > 1:
                yield target[1]


@pytest.mark.parametrize("part", sorted(LAYERS))
def test_imports_point_down(part):
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else list((PACKAGE / part).rglob("*.py"))
    assert files
    for path in files:
        above = set(imported(path)) - LAYERS[part] - {part}
        assert not above, f"{path.relative_to(PACKAGE)} imports {above}"


def test_core_needs_neither_transformers_nor_optional_packages():
    core = ["attention", "backends", "functional", "mechanisms"]
    for part in core:
        for path in [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else (PACKAGE / part).rglob("*.py"):
            assert "transformers" not in {
                line.split()[1].split(".")[0]
                for line in path.read_text().splitlines()
                if line.startswith(("import ", "from "))
            }


FRESH = """
import json, sys
sys.addaudithook(lambda event, args: exit("network") if event.startswith("socket.") else None)
from transformers import LlamaConfig, modeling_utils
shown = [LlamaConfig(vocab_size=61).to_json_string()]
before = set(sys.modules)
import hf_semfocus
imported = [sorted(set(sys.modules) - before)]
shown.append(LlamaConfig(vocab_size=61).to_json_string())
dir(hf_semfocus)
imported.append(sorted(set(sys.modules) - before))
import hf_semfocus.backends.lists.triton
imported.append(sorted(set(sys.modules) - before))
print(json.dumps([shown, imported]))
"""


@pytest.fixture(scope="module")
def fresh():
    """What a process has that imports Transformers, then this package: how it shows a model, and what is imported."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_import_is_light_and_silent(fresh):
    _, (imported, _, _) = fresh
    assert "hf_semfocus" in imported
    assert not {"datasets", "evaluate", "peft", "matplotlib", "triton", "hf_semfocus.training"} & set(imported)


def test_dir_imports_no_library(fresh):
    _, (_, imported, _) = fresh
    assert not {"datasets", "evaluate"} & set(imported)


def test_importing_the_triton_backend_does_not_import_its_kernels(fresh):
    _, (_, _, imported) = fresh
    name = "hf_semfocus.backends.lists.triton"
    assert [module for module in imported if module.startswith(name)] == [name, f"{name}.operators"]


def test_dense_models_are_saved_as_before(fresh):
    (plain, patched), _ = fresh
    assert plain == patched != ""
