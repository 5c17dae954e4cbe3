"""Files of JSON objects, one per line, whose last line may be one that is being written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .files import write_text


def read(path: Path, *required: str) -> list[dict[str, Any]]:
    """All records of a file, or none where it does not exist; a last line without its end does not count.

    Args:
        path: the file.
        *required: fields that each record must have.

    Raises:
        ValueError: names the line that is not such a record.
    """
    if not path.exists():
        return []
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error}") from None
    return [_parse(path, number, line, required) for number, line in enumerate(lines, start=1)]


def write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file by records atomically."""
    write_text(path, "".join(map(line, records)))


def line(record: Mapping[str, Any]) -> str:
    """A record as a line.

    Raises:
        ValueError: a number in it is not finite.
    """
    return json.dumps(record, allow_nan=False) + "\n"


def _parse(path: Path, number: int, text: str, required: Iterable[str]) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
        record = None
    if not isinstance(record, dict) or any(name not in record for name in required):
        fields = f" with {', '.join(required)}" if required else ""
        raise ValueError(f"{path}, line {number}: {text[:60]!r} is not a record; expected a JSON object{fields}")
    return record
