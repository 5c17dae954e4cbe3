"""The paper's eight tasks (arXiv 2506.14095, experiments) and three more, as seeded, cached `datasets`.

    from hf_semfocus.data import tasks

    train = tasks.load("even_pairs", split="train", seed=153476998)
    longer = tasks.load("even_pairs:max_length=80", split="test")
    tasks.get("even_pairs").decode(train[0]["input_ids"])

Every module of this package is imported and the tasks in it register themselves: a new task is one new file.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from ...messages import check_integer, did_you_mean
from .base import REGISTRY, Task, register
from .cache import cached

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["DEFAULT_SEED", "SPLITS", "Task", "at_length", "exists", "get", "load", "names", "register", "split_size"]

# First of the paper's ten seeds; it seeds the data as well as the run.
DEFAULT_SEED = 153476998
SPLITS = {"train": 5000, "validation": 2000, "test": 2000}

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def names() -> list[str]:
    """Names of all tasks, in alphabetical order."""
    return sorted(REGISTRY)


def exists(name: str | None) -> bool:
    """Whether there is a task of that name, with parameters or without."""
    return (name or "").partition(":")[0] in REGISTRY


def get(name: str) -> Task:
    """The task of that name, which may set parameters: NAME:param=value,...

    Raises: ValueError with the choices if there is no such task or parameter, or the task refuses the value.
    """
    own, _, given = name.partition(":") if isinstance(name, str) else (name, "", "")
    if own not in REGISTRY:
        raise ValueError(f"unknown task {name!r}{did_you_mean(own, names())}, expected one of {names()}")
    task = REGISTRY[own]
    return replace(task, **_parameters(task, given)) if given else task


def _parameters(task: Task, given: str) -> dict[str, int | float]:
    """The values of `param=value,...`, of the types that the task's own have."""
    values = {}
    for part in given.split(","):
        name, _, text = part.partition("=")
        known = {field.name: type(getattr(task, field.name)) for field in fields(task)}
        if name not in known or name in values:
            raise ValueError(f"{task.name}: {part!r}, expected some of {', '.join(known)}, each once, as param=value")
        try:
            values[name] = known[name](text)
        except ValueError:
            raise ValueError(f"{task.name}: {name}={text!r}, expected {known[name].__name__}") from None
    return values


def at_length(name: str, length: int) -> str:
    """The name of the same task with rows of at most `length` tokens."""
    own, _, given = name.partition(":")
    kept = [part for part in given.split(",") if part and not part.startswith("max_length=")]
    return f"{own}:{','.join([*kept, f'max_length={length}'])}"


def split_size(name: str, split: str) -> int:
    """Rows that a split of a task has by default; ValueError for an unknown name or split."""
    if not isinstance(split, str) or split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, expected one of {list(SPLITS)}")
    return (split == "train" and get(name).train_size) or SPLITS[split]


def load(
    name: str,
    split: str = "train",
    seed: int = DEFAULT_SEED,
    size: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Rows of one split of one task, built on first use and read from disk afterwards.

    The splits are independent draws from the task's distribution, each from its own random stream; no row is
    dropped because another split holds it too. A smaller `size` gives the first rows of a larger one.

    Args:
        name: one of `names()`.
        split: "train" (5,000 rows unless the task says otherwise), "validation" or "test" (2,000 each).
        seed: non-negative integer.
        size: number of rows, at least 1; None for the split's own.
        cache_dir: folder for the built datasets; None for the cache of `datasets` (HF_DATASETS_CACHE).

    Returns: Dataset with columns input_ids (list of int32, unpadded) and labels (int64; for a task of the kind
        "causal_lm" a list of them, as long as the row).
    Raises: ValueError for an unknown name or split, or a bad seed or size.
    """
    task, usual = get(name), split_size(name, split)
    size = usual if size is None else check_integer("size", size, 1)
    return cached(task, split, check_integer("seed", seed, 0), size, cache_dir)
