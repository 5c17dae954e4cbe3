"""Datasets built once: a folder per content, under the cache of `datasets`.

The folder's name is a hash of everything the rows depend on, source files included, so changed code never
meets stale rows. Folders appear whole (written aside, then renamed) and carry checksums, so neither a second
process nor a damaged disk yields half a dataset.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .base import Task, source_digest, stream

if TYPE_CHECKING:
    from datasets import Dataset

_MANIFEST = "checksums.json"
_ATTEMPTS = 3


def cached(task: Task, split: str, seed: int, size: int, cache_dir: str | os.PathLike | None = None) -> Dataset:
    """The rows of one split, read from the cache or built into it.

    A task whose class has no source file is built anew every time, for nothing would tell its versions apart.

    Returns: Dataset of `size` rows with columns input_ids (list of int32) and labels (int64, one or a list).
    Raises: RuntimeError naming the folder if what was written cannot be read back; OSError if it cannot be
        written.
    """
    import datasets

    if source_digest(type(task)) is None:
        return _build(task, split, seed, size)
    root = Path(datasets.config.HF_DATASETS_CACHE if cache_dir is None else cache_dir)
    folder = root / "hf_semfocus" / f"{task.name}-{split}-{content_key(task, split, seed, size)}"
    built = None
    for _ in range(_ATTEMPTS):
        dataset = _read(folder)
        if dataset is not None:
            return dataset
        built = built or _build(task, split, seed, size)
        _write(built, folder)
    raise RuntimeError(f"{folder} is damaged again after {_ATTEMPTS} rebuilds: check the disk or remove it")


def content_key(task: Task, split: str, seed: int, size: int) -> str:
    """32 hex digits that change with anything that could change the rows or how they are stored.

    Versions count: NumPy may change a distribution's stream, `datasets` its file format.
    """
    import datasets

    schema = str(_features(task))
    parts = (source_digest(type(task)), task, split, seed, size, schema, np.__version__, datasets.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _features(task: Task):
    import datasets

    label = datasets.Value("int64")
    labels = {"classification": label, "causal_lm": datasets.List(label)}[task.kind]
    return datasets.Features({"input_ids": datasets.List(datasets.Value("int32")), "labels": labels})


def _build(task: Task, split: str, seed: int, size: int) -> Dataset:
    import datasets

    input_ids, labels = task.generate(stream(task.name, split, seed), size)
    return datasets.Dataset.from_dict(
        {"input_ids": input_ids, "labels": labels}, features=_features(task), split=datasets.NamedSplit(split)
    )


def _read(folder: Path) -> Dataset | None:
    """The dataset in `folder`, or None (with a warning unless it is just absent) if it is not intact."""
    import datasets

    if not folder.exists():
        return None
    try:
        recorded = json.loads((folder / _MANIFEST).read_text())
        if recorded and recorded == _checksums(folder):
            return datasets.load_from_disk(folder)
    except (OSError, ValueError):
        pass
    warnings.warn(f"cached dataset {folder} is damaged; building it again", stacklevel=4)
    return None


def _write(dataset: Dataset, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        fresh = Path(scratch, "fresh")
        dataset.save_to_disk(fresh)
        (fresh / _MANIFEST).write_text(json.dumps(_checksums(fresh)))
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, Path(scratch, "damaged"))
        try:
            os.replace(fresh, folder)
        except OSError:
            # Another process came first, with the same content: the key says so.
            if not folder.exists():
                raise


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.iterdir() if file.name != _MANIFEST)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
