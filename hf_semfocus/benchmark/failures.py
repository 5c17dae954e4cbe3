"""What a benchmark that keeps going records instead of a measurement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..messages import brief
from .contestants import OURS, SDPA


@contextmanager
def recorded(label: str, keep_going: bool, result: Mapping[str, Any]) -> Iterator[None]:
    """Record the failure of a part under ``failed`` of the results if the run keeps going, else raise it."""
    try:
        yield
    except Exception as error:
        if not keep_going:
            raise
        result["failed"][label] = brief(error)


def without_ratio(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By label, why cases have no ratio: ours or full attention failed, and was left out."""
    return {
        each["label"]: f"{name} {each['left_out'][name]}"
        for each in cases
        for name in (SDPA, OURS)
        if name not in each["seconds"]
    }
