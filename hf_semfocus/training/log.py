"""The record of a training: one JSON object per line, which an interrupted training takes back and continues."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import sync, write_text


class MetricsLog:
    """A file of records, such as the ``metrics.jsonl`` of a run.

    Args:
        path: the file; it need not exist.
        writes: whether this process writes; the others only count.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path = path
        self.writes = writes

    def append(self, record: dict[str, Any]) -> dict[str, Any]:
        """Add one record and return it as it is written: numbers that are not finite become None."""
        record = {name: None if _is_infinite(value) else value for name, value in record.items()}
        if self.writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(record))
        return record

    def sync(self) -> None:
        """Have everything written so far on the disk."""
        if self.writes and self.path.exists():
            sync(self.path)

    def rewind(self, run: str, keep: int) -> None:
        """Drop all but the first ``keep`` records of ``run``, and a last line that was not finished.

        Raises:
            ValueError: there are fewer than ``keep``, or a line is not a record.
        """
        if not self.writes:
            return
        kept, seen = [], 0
        for record in read(self.path):
            seen += record["run"] == run
            if record["run"] != run or seen <= keep:
                kept.append(_line(record))
        if seen < keep:
            raise ValueError(f"{self.path} has {seen} records of {run}; its checkpoint counts {keep}")
        text = "".join(kept)
        if self.path.exists() and self.path.read_text(encoding="utf-8") != text:
            write_text(self.path, text)


def gather(paths: Iterable[Path], path: Path) -> list[dict[str, Any]]:
    """Write the records of several files into one, and return them."""
    records = [record for part in paths for record in read(part)]
    write_text(path, "".join(map(_line, records)))
    return records


def read(path: Path) -> list[dict[str, Any]]:
    """All records of a file, or none where it does not exist; a last line without its end does not count.

    Raises:
        ValueError: names the line that is not a record.
    """
    if not path.exists():
        return []
    records = []
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["run"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"{path}, line {number}: {line[:60]!r} is not a record") from None
        records.append(record)
    return records


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
