"""Places in the files of a dataset, as an editor shows them, and what keeps a file from being read."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import fsspec
import pyarrow.parquet as pq

from .files import find, shown


def is_csv(dataset: str) -> bool:
    """Whether a dataset is read from .csv files."""
    path = Path(dataset).expanduser()
    return path.exists() and find(path)[0] == "csv"


def place(dataset: str, split: str, row: int) -> str:
    """Where row number ``row`` of a split, counted from 0, stands: "line 2 of reviews.csv".

    Lines, rows and records are counted from 1; the first line of a .csv file is its header. Only the split is named
    of a dataset on the Hub.
    """
    path, left = Path(dataset).expanduser(), row
    kind, files = find(path) if path.exists() else (None, {})
    for file in map(Path, files.get(split, ())):
        names = _names(kind, file)
        if left < len(names):
            return f"{names[left]} of {shown(file, path)}"
        left -= len(names)
    return f"row {row + 1} of {split!r}"


def fault(dataset: str) -> str | None:
    """Why a file of a dataset cannot be read, with the cure; None if nothing is found.

    It finds bytes that are not UTF-8, .csv files without a row below the header, and lines that are not JSON.
    """
    path = Path(dataset).expanduser()
    if not path.exists():
        return None
    kind, files = find(path)
    for file in map(Path, (name for names in files.values() for name in names)):
        look = {"text": _not_utf8, "csv": _bad_csv, "json": _bad_json}.get(kind)
        if look is not None and (found := look(file, shown(file, path))):
            return found
    return None


def _not_utf8(file: Path, name: str) -> str | None:
    with fsspec.open(file, "rb", compression="infer") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                wide = line.startswith((b"\xff\xfe", b"\xfe\xff"))
                encoding = "UTF-16" if number == 1 and wide else "WINDOWS-1252"
                return (
                    f"line {number} of {name} is not UTF-8 (byte 0x{line[error.start]:02x}); save the file as UTF-8, "
                    f"perhaps with: iconv -f {encoding} -t UTF-8 {name} > utf8-{Path(name).name}"
                )
    return None


def _bad_csv(file: Path, name: str) -> str | None:
    if (found := _not_utf8(file, name)) is not None:
        return found
    header = number = None
    with _opened(file) as text:
        for number, cells in _records(text):
            if header is None:
                header, first = cells, number
            elif len(cells) > len(header):
                return (
                    f"line {number} of {name} has {len(cells)} cells, and its header {len(header)}; put a text that "
                    'holds a comma in "quotes"'
                )
    if header is None:
        return f"{name} is empty; expected a header, such as text,label, and a line for every example"
    if number == first:
        return f"{name} has only a header, line {first}; add a line for every example below it"
    return None


def _bad_json(file: Path, name: str) -> str | None:
    if (found := _not_utf8(file, name)) is not None:
        return found
    with _opened(file) as text:
        for number, line in enumerate(text, start=1):
            if number == 1 and line.lstrip().startswith("["):
                return None
            try:
                json.loads(line.strip() or "0")
            except json.JSONDecodeError as error:
                what = f"{error.msg}, column {error.colno}"
                return f"line {number} of {name} is not JSON ({what}); expected an object on every line"
    return None


def _names(kind: str, file: Path) -> list[str]:
    """What a person calls every row of a file."""
    if kind == "parquet":
        with fsspec.open(file, "rb") as content:
            return [f"row {number}" for number in range(1, pq.ParquetFile(content).metadata.num_rows + 1)]
    with _opened(file) as text:
        if kind == "csv":
            return [f"line {number}" for number, _ in _records(text)][1:]
        lines = list(text)
    if kind == "json" and "".join(lines).lstrip().startswith("["):
        return [f"record {number}" for number in range(1, len(json.loads("".join(lines))) + 1)]
    return [f"line {number}" for number, line in enumerate(lines, start=1) if line.strip()]


def _records(text: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """The records of a .csv file with the lines they begin on, the header first; pandas, too, skips blank lines."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        reader, begins = csv.reader(text), 1
        for record in reader:
            if any(cell.strip() for cell in record) or len(record) > 1:
                yield begins, record
            begins = reader.line_num + 1
    finally:
        csv.field_size_limit(before)


@contextmanager
def _opened(file: Path) -> Iterator[IO[str]]:
    with fsspec.open(file, "rt", compression="infer", encoding="utf-8-sig", newline="") as text:
        yield text
