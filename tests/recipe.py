"""How tests run the recipes: in their own process, or as a command."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from hf_semfocus.training.log import read

ROOT = Path(__file__).parents[1]
CLOCKED = ("seconds", "steps_per_second", "tokens_per_second", "peak_memory_mb")


def load(name):
    """The code of the recipe of that name."""
    return importlib.import_module(f"hf_semfocus.cli.{name}")


pretrain = load("pretrain")


def bare():
    """The environment of a process that finds this package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def command(*args, launch=(), recipe="pretrain"):
    """What ``subprocess`` needs to start a recipe with ``accelerate launch``."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *launch]
    return {"args": [*launcher, str(ROOT / "recipes" / f"{recipe}.py"), *map(str, args)], "env": bare()}


def timeless(path):
    """The records of all runs in an output folder, without what the clock says."""
    records = [record for log in sorted(Path(path).glob("runs/*/metrics.jsonl")) for record in read(log)]
    return [{k: v for k, v in record.items() if k not in CLOCKED} for record in records]


def assert_close(records, expected, rel=1e-5):
    """Records agree: floating-point numbers to ``rel``, everything else exactly."""
    for record, wanted in zip(records, expected, strict=True):
        assert record.keys() == wanted.keys()
        for name, value in wanted.items():
            assert record[name] == (pytest.approx(value, rel=rel) if isinstance(value, float) else value), name
