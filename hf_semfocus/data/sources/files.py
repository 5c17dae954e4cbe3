"""Which files a path stands for, what they are, and to which split they belong."""

from __future__ import annotations

import re
from pathlib import Path

LOADERS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
PACKED = {".gz", ".bz2", ".xz", ".zst"}
SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(["validation", "valid", "val", "dev"], "validation")
_SPLIT = re.compile(rf"({'|'.join(SPLITS)})(?![a-z])", re.IGNORECASE)


def kind_of(path: Path) -> str | None:
    """The loader of ``datasets`` for a file, compressed or not; None if there is none for its ending."""
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    if len(endings) == 2 and endings[1] in PACKED:
        endings.pop()
    return LOADERS.get(endings[-1]) if endings else None


def looks_local(name: str) -> bool:
    """Whether a name that is neither a file nor a folder was meant as one, not as a dataset on the Hub."""
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or kind_of(Path(name)) is not None


def find(path: Path) -> tuple[str, dict[str, list[str]]]:
    """The loader and the files of every split, in alphabetical order, of a file or of a folder and those below it.

    A folder's files belong to the split with which their names or their folders' names begin (train, validation,
    valid, val, dev, test), and to train where none does; hidden files and those of other kinds are passed over.

    Raises:
        ValueError: no file that can be loaded, or files of several kinds.
    """
    if not path.is_dir():
        files = [path]
    else:
        below = (file for file in sorted(path.rglob("*")) if file.is_file())
        files = [file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    kinds = {file: kind for file in files if (kind := kind_of(file)) is not None}
    if len(found := sorted(set(kinds.values()))) != 1:
        there = f"files of {len(found)} kinds ({', '.join(found)})" if found else "none"
        raise ValueError(f"dataset={str(path)!r}: expected files of one kind, {', '.join(LOADERS)}; there are {there}")
    splits: dict[str, list[str]] = {}
    for file in kinds:
        parts = file.relative_to(path).parts if path.is_dir() else ()
        named = [match[1].lower() for part in parts if (match := _SPLIT.match(part))]
        splits.setdefault(SPLITS[named[-1]] if named else "train", []).append(str(file))
    return found[0], splits


def shown(file: Path, path: Path) -> str:
    """The name of a file that ``path`` stands for: that below the folder, or its own."""
    return str(file.relative_to(path)) if path.is_dir() else file.name
