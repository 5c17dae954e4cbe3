"""The paper's eight tasks (arXiv 2506.14095, experiments), and associative recall, as seeded, cached `datasets`.

    from hf_semfocus.data import tasks

    train = tasks.load("even_pairs", split="train", seed=153476998)
    tasks.get("even_pairs").decode(train[0]["input_ids"])

Every module of this package is imported and the tasks in it register themselves: a new task is one new file.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from typing import TYPE_CHECKING

from ...messages import check_integer, did_you_mean
from .base import REGISTRY, Task, register
from .cache import cached

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["DEFAULT_SEED", "SPLITS", "Task", "get", "load", "names", "register"]

# First of the paper's ten seeds; it seeds the data as well as the run.
DEFAULT_SEED = 153476998
SPLITS = {"train": 5000, "validation": 2000, "test": 2000}

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def names() -> list[str]:
    """Names of all tasks, in alphabetical order."""
    return sorted(REGISTRY)


def get(name: str) -> Task:
    """The task of that name; ValueError with the choices if there is none."""
    if not isinstance(name, str) or name not in REGISTRY:
        raise ValueError(f"unknown task {name!r}{did_you_mean(name, names())}, expected one of {names()}")
    return REGISTRY[name]


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
    task = get(name)
    if not isinstance(split, str) or split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, expected one of {list(SPLITS)}")
    usual = (split == "train" and task.train_size) or SPLITS[split]
    size = usual if size is None else check_integer("size", size, 1)
    return cached(task, split, check_integer("seed", seed, 0), size, cache_dir)
