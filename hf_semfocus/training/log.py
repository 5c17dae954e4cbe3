"""The record of a training: one JSON object per line, which an interrupted training takes back and continues."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import json_lines
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
                file.write(json_lines.line(record))
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
                kept.append(json_lines.line(record))
        if seen < keep:
            raise ValueError(f"{self.path} has {seen} records of {run}; its checkpoint counts {keep}")
        text = "".join(kept)
        if self.path.exists() and self.path.read_text(encoding="utf-8") != text:
            write_text(self.path, text)


def gather(paths: Iterable[Path], path: Path) -> list[dict[str, Any]]:
    """Write the records of several files into one, and return them."""
    records = [record for part in paths for record in read(part)]
    json_lines.write(path, records)
    return records


def read(path: Path) -> list[dict[str, Any]]:
    """All records of a file, as of :func:`hf_semfocus.json_lines.read`."""
    return json_lines.read(path, "run")


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
