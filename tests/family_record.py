"""What was found of every model class, by version of Transformers: ``model_cards/supported_models/5.24.jsonl``."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers
from conftest import STATELESS

FOLDER = Path(__file__).parent.parent / "model_cards" / "supported_models"
VERSION = ".".join(transformers.__version__.split(".")[:2])
BAD = ("wrong", "dense", "error", "strict", "crashed")
REASONS = ("attention of its own", "no attention", "passes")
"""How the reasons of refusals begin, or, where a layer passes something, go on."""
Record = dict[str, Any]


def path(version: str = VERSION) -> Path:
    """The file of a version."""
    return FOLDER / f"{version}.jsonl"


def versions() -> list[str]:
    """The versions that were measured, the oldest first."""
    return sorted((file.stem for file in FOLDER.glob("*.jsonl")), key=lambda v: [int(part) for part in v.split(".")])


def read(version: str = VERSION) -> dict[str, Record]:
    """The record of every class; of two, the later one."""
    if not path(version).exists():
        return {}
    return {one["class"]: one for one in map(json.loads, path(version).read_text().splitlines())}


def compact(found: dict[str, Any]) -> Record:
    """What is kept of a finding: no times, the number of mechanisms, and the beginning of a reason."""
    cls = getattr(transformers, found["class"])
    parts = cls.__module__.split(".")
    record = {"family": parts[2], "class": found["class"], "outcome": found["outcome"]}
    if found["outcome"] == "supported":
        record["mechanisms"] = found.get("mechanisms", len(STATELESS))
    if found["outcome"] == "refused":
        record["reason"] = found["reason"]
    elif found["outcome"] != "supported":
        record["why"] = found["why"].replace("\n", " ")[:200]
    if found.get("notes"):
        record["notes"] = [note.partition(":")[0] for note in found["notes"]]
    return record


def add(record: Record) -> None:
    """Append a record to the file of the installed version."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with path().open("a") as file:
        file.write(json.dumps(record) + "\n")


def tidy(version: str = VERSION) -> None:
    """Sort a file by family and class, with one record of each class."""
    records = sorted(read(version).values(), key=lambda one: (one["family"], one["class"]))
    path(version).write_text("".join(json.dumps(one) + "\n" for one in records))


def families(version: str) -> dict[str, list[Record]]:
    """The records by family."""
    found: dict[str, list[Record]] = collections.defaultdict(list)
    for one in read(version).values():
        found[one["family"]].append(one)
    return dict(sorted(found.items()))


def verdict(records: Iterable[Record]) -> str:
    """A family in a word: ``wrong`` or ``supported`` if any class is, else ``refused`` or ``not measured``."""
    outcomes = {one["outcome"] for one in records}
    if outcomes & set(BAD):
        return "wrong"
    return next((word for word in ("supported", "refused") if word in outcomes), "not measured")


def kind(reason: str) -> str:
    """Which of :data:`REASONS` a refusal has.

    Raises:
        ValueError: none of them.
    """
    for each in REASONS:
        if reason.startswith(each) or f" {each} `" in reason:
            return each
    raise ValueError(f"no known reason: {reason!r}; expected one of {', '.join(REASONS)}")


def totals(version: str) -> dict[str, int]:
    """Families by verdict, refused ones also by reason, which is that of their first class."""
    counts: collections.Counter[str] = collections.Counter()
    for records in families(version).values():
        word = verdict(records)
        counts.update(["families", word])
        if word == "refused":
            counts[kind(next(one["reason"] for one in records if one["outcome"] == "refused"))] += 1
    return {"classes": len(read(version)), **counts}
