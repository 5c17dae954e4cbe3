"""Results: one metric of one attention on one dataset, per seed."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from transformers import AttentionInterface

from .. import mechanisms
from ..hf.settings import is_ours
from ..messages import is_integer

DENSE = ("full", "eager")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One metric of one attention on one dataset.

    Args:
        attention: ``"sdpa"``, ``"eager"`` or ``"full"`` for the dense baseline, or a mechanism's name, with or without
            its parameters.
        metric: its name, such as ``"accuracy"``.
        values: the value of every seed; None for a seed without one (a run that diverged).
        dataset: its name, on the Hub if it is there.
        split: the evaluated split.

    Raises:
        ValueError: a field is invalid.
    """

    attention: str
    metric: str
    values: Mapping[int, float | None]
    dataset: str
    split: str

    def __post_init__(self):
        for name in ("attention", "metric", "dataset", "split"):
            if not isinstance(value := getattr(self, name), str) or not value.strip():
                raise ValueError(f"Result: {name}={value!r}; expected a name")
        if is_ours(self.attention):
            mechanisms.build(self.attention)
        elif self.attention not in (*DENSE, *AttentionInterface().valid_keys()):
            expected = ", ".join((*DENSE, "sdpa", *mechanisms.names()))
            raise ValueError(f"Result: attention={self.attention!r} is not known; expected one of {expected}")
        if not isinstance(self.values, Mapping) or not self.values:
            raise ValueError(f"Result: values={self.values!r}; expected a value for every seed, such as {{0: 0.97}}")
        object.__setattr__(self, "values", dict(_seed_and_value(*item) for item in self.values.items()))

    @property
    def sparse(self) -> bool:
        """Whether the attention is one of this library's."""
        return is_ours(self.attention)

    @property
    def measured(self) -> list[float]:
        """The values that are not None."""
        return [value for value in self.values.values() if value is not None]

    @property
    def mean(self) -> float | None:
        """Mean over the seeds that have a value; None if none has."""
        return statistics.fmean(self.measured) if self.measured else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two values."""
        return statistics.stdev(self.measured) if len(self.measured) > 1 else None


def check(results: Iterable[Result | Mapping[str, Any]]) -> tuple[Result, ...]:
    """Results as :class:`Result`, from those or from mappings with its fields.

    Raises:
        ValueError: an item is neither, or invalid.
    """
    names = [field.name for field in dataclasses.fields(Result)]
    found = []
    for item in results:
        if isinstance(item, Mapping):
            if set(item) != set(names):
                raise ValueError(f"a result has the fields {sorted(item)}; expected {names}")
            item = Result(**item)
        elif not isinstance(item, Result):
            raise ValueError(f"{item!r} is not a result; expected a hf_semfocus.hub.Result or a dict of {names}")
        found.append(item)
    return tuple(found)


def from_runs(
    runs: Sequence[Mapping[str, Any]], dataset: str, split: str, metrics: Mapping[str, str] | None = None
) -> list[Result]:
    """Results from what :func:`hf_semfocus.training.train` returned for every run.

    Args:
        runs: with ``attention``, ``seed`` and the metrics; one whose ``status`` is "diverged" has no value.
        dataset, split: the evaluated data.
        metrics: field of a run -> name in the card; ``{"eval_accuracy": "accuracy"}`` by default.

    Raises:
        ValueError: a run lacks a field, or a seed comes twice for one attention.
    """
    found: dict[tuple[str, str], dict[int, float | None]] = {}
    for run in runs:
        for field, metric in (metrics or {"eval_accuracy": "accuracy"}).items():
            diverged = run.get("status") == "diverged"
            if missing := {"attention", "seed", *([] if diverged else [field])} - set(run):
                raise ValueError(f"a run has no {', '.join(sorted(missing))}; it has {', '.join(sorted(run))}")
            values = found.setdefault((run["attention"], metric), {})
            if run["seed"] in values:
                raise ValueError(f"seed {run['seed']} comes twice for {run['attention']!r}; expected one run per seed")
            values[run["seed"]] = None if diverged else run[field]
    return [
        Result(attention=attention, metric=metric, values=values, dataset=dataset, split=split)
        for (attention, metric), values in found.items()
    ]


def _seed_and_value(seed: Any, value: Any) -> tuple[int, float | None]:
    if isinstance(seed, str) and seed.isdecimal():  # keys of a JSON object
        seed = int(seed)
    if not is_integer(seed):
        raise ValueError(f"Result: values has the key {seed!r}; expected seeds, which are integers")
    if value is None:
        return int(seed), None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"Result: values[{seed}]={value!r}; expected a finite number, or None where there is none")
    return int(seed), float(value)
