"""Reading files, or a dataset of the Hugging Face Hub, split by split, with errors of one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, IterableDataset

from .files import find, looks_local
from .places import fault

LOADER_OPTIONS = {"json": {"encoding": "utf-8-sig"}}
"""Told to loaders of ``datasets``: that of JSON passes bytes that are not text on, unless it has to decode them."""


def read_splits(
    name: str, config: str | None = None, streaming: bool = False, options: dict[str, dict[str, Any]] | None = None
) -> dict[str, Dataset] | dict[str, IterableDataset]:
    """Open every split of a file, a folder or a dataset on the Hub, of which no code is ever run.

    Args:
        name: an existing file or folder, or else a name on the Hub.
        config: which configuration of a dataset on the Hub.
        streaming: give an ``IterableDataset`` for every split, which is read as it is needed.
        options: by loader of ``datasets`` ("csv", "text", ...), what it is told about files.

    Returns:
        Splits by name; "train" is one of them.

    Raises:
        ValueError: nothing there, something that cannot be read, or no split "train".
    """
    path = Path(name).expanduser()
    if path.exists():
        kind, files = find(path)
        if unused := files.pop("test", None):
            warnings.warn(
                f"dataset={name!r}: left out {len(unused)} files named test, such as {unused[0]}", stacklevel=3
            )
        given = {**LOADER_OPTIONS.get(kind, {}), **(options or {}).get(kind, {})}
        with reading(name):
            splits = datasets.load_dataset(kind, data_files=files, streaming=streaming, **given)
    elif looks_local(name):
        raise ValueError(f"dataset={name!r}: no such file or folder")
    else:
        with reading(name):
            splits = datasets.load_dataset(name, config, streaming=streaming)
    if "train" not in splits:
        raise ValueError(f"dataset={name!r} has no split 'train'; it has {', '.join(map(repr, splits))}")
    return splits


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what goes wrong in ``datasets`` into one error of one line, which names the line of the file if it can."""
    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)  # it logs the errors that it raises
    try:
        yield
    except StopIteration as error:  # how it meets a JSON file without a record
        raise ValueError(f"dataset={name!r} has no documents; expected at least one") from error
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = fault(name) or " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"dataset={name!r} cannot be read: {reason}") from error
    finally:
        datasets.logging.set_verbosity(before)
