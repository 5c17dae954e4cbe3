"""Details that the author of a model adds to its card; missing ones are marked as not given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .results import Result, check


@dataclass(frozen=True, kw_only=True)
class CardDetails:
    """Contents of a card beyond what is read from the model.

    Args:
        results: measurements of one comparison, dense and sparse: :class:`Result`, or dicts with its fields.
        seed: the seed whose weights are published, so that the metadata holds their value and not the mean.
        base_model: Hub name of the base model.
        datasets: Hub names of the training datasets.
        license, language: as the Hub spells them, such as ``"apache-2.0"`` and ``"en"``.
        tags: more tags.
        task: the Hub's name of the task, such as ``"text-generation"``; by default that of the model's class.
        command: the command that made it.
        limits: known limitations, in Markdown; HTML, images, headings and code blocks become text.

    Raises:
        ValueError: a field is invalid.
    """

    results: Sequence[Result | Mapping[str, Any]] = ()
    seed: int | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    license: str | None = None
    language: str | Sequence[str] | None = None
    tags: Sequence[str] = ()
    task: str | None = None
    command: str | None = None
    limits: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "results", check(self.results))
        for name in ("base_model", "license", "task", "command", "limits"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ValueError(f"{name}={value!r}; expected text, or None for not given")
        for name in ("datasets", "tags", "language"):
            value = getattr(self, name)
            listed = [value] if isinstance(value, str) else list(value or ())
            if not all(isinstance(item, str) and item.strip() for item in listed):
                raise ValueError(f"{name}={value!r}; expected names")
            if name != "language" or not isinstance(value, str):
                object.__setattr__(self, name, listed)
        if self.seed is not None and self.results:
            seeds = sorted({seed for result in self.results if result.sparse for seed in result.values})
            if self.seed not in seeds:
                raise ValueError(f"seed={self.seed!r} is not among the results' seeds; expected one of {seeds}")


def details_of(results: Sequence[Result | Mapping[str, Any]], others: Mapping[str, Any]) -> CardDetails:
    """Details from keyword arguments.

    Raises:
        ValueError: a detail is unknown or invalid.
    """
    names = [field.name for field in dataclasses.fields(CardDetails)]
    if unknown := sorted(set(others) - set(names)):
        raise ValueError(f"unknown detail {unknown[0]!r}; expected some of {', '.join(names)}")
    return CardDetails(results=results, **others)
