"""Runs read from record files: when each reached a target, or how long it was observed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import json_lines
from ..figures import band

LogRecord = Mapping[str, Any]
UNITS = ("epoch", "step", "seconds")
"""Units of time."""
EVALUATIONS = ("epoch", "eval")
"""Kinds of records that hold an evaluation."""


@dataclass(frozen=True)
class Target:
    """A target value: an upper limit if the field is a loss or a perplexity, else a lower limit.

    Attributes:
        field: of a record, such as "train_accuracy" or "eval_loss".
        value: the target.
    """

    field: str
    value: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Target | None:
        """The target in a training's options, ``target_loss`` or ``target_accuracy``; None if there is none."""
        if config.get("target_loss") is not None:
            return cls("eval_loss", config["target_loss"])
        accuracy = config.get("target_accuracy")
        return cls("train_accuracy", accuracy) if accuracy is not None and accuracy <= 1 else None

    def met(self, record: LogRecord) -> bool:
        """Whether a record reaches the target; the training accuracy of part of an epoch does not count."""
        kinds = ("epoch",) if self.field == "train_accuracy" else EVALUATIONS
        value = record.get(self.field)
        if value is None or record.get("kind", "epoch") not in kinds:
            return False
        return value <= self.value if self.field.endswith(("loss", "perplexity")) else value >= self.value


@dataclass(frozen=True)
class Run:
    """A run, and when it reached the target.

    Attributes:
        task: its task; "" where the records have none.
        attention, seed: of the run.
        reached: time to the target by unit; None if it did not reach it.
        last: time observed, by unit.
        diverged: whether it ended with a loss or gradient that was not finite, and so never reaches the target.
    """

    task: str
    attention: str
    seed: int
    reached: Mapping[str, float] | None
    last: Mapping[str, float]
    diverged: bool = False


def read_records(*paths: str | Path) -> list[dict[str, Any]]:
    """Read the records of trainings and grids.

    Args:
        *paths: files such as ``metrics.jsonl``, their output folders, or folders with the ``runs.jsonl`` and
            ``evaluations.jsonl`` of a grid, whose evaluations get the attention, seed and task of their run.

    Raises:
        ValueError: there are no records in a path.
    """
    records = []
    for path in map(Path, paths):
        if (path / "evaluations.jsonl").exists():
            runs = {run["point"]: run for run in _lines(path / "runs.jsonl")}
            for line in _lines(path / "evaluations.jsonl"):
                if (run := runs.get(line["point"])) is not None:  # else the run is not finished
                    who = {"attention": run["attention"], "seed": run["seeds"], "task": run.get("task", "")}
                    kind = "epoch" if float(line["epoch"]).is_integer() else "eval"
                    records.append({"kind": kind, "run": run["point"], **who, **line})
            records += [
                {"kind": "diverged", "run": name, "attention": run["attention"], "seed": run["seeds"]}
                | {"task": run.get("task", ""), "epoch": run.get("epoch", 0), "step": run.get("step", 0)}
                for name, run in runs.items()
                if run.get("status") == "diverged"
            ]
        else:
            records += _lines(path / "metrics.jsonl" if path.is_dir() else path)
    return records


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected metrics.jsonl, or the output folder of a training or grid")
    return json_lines.read(path)


def find_runs(records: Iterable[LogRecord], target: Target) -> list[Run]:
    """The runs in records, in order of appearance, with their times to the target.

    Raises:
        ValueError: two runs have the same task, attention and seed.
    """
    grouped: dict[tuple[str, str, int], list[LogRecord]] = {}
    for record in records:
        own = grouped.setdefault((record.get("task") or "", record["attention"], record["seed"]), [])
        if own and record["step"] < own[-1]["step"]:
            raise ValueError(
                f"{record['attention']} with seed {record['seed']} goes back from step {own[-1]['step']} to "
                f"{record['step']}; expected one run per task, attention and seed"
            )
        own.append(record)
    return [_run(key, own, target) for key, own in grouped.items()]


def _run(key: tuple[str, str, int], records: Sequence[LogRecord], target: Target) -> Run:
    first = next((record for record in records if target.met(record)), None)
    diverged = first is None and any(record.get("kind") == "diverged" for record in records)
    return Run(*key, None if first is None else _times(first), _times(records[-1]), diverged)


def _times(record: LogRecord) -> dict[str, float]:
    return {unit: record[unit] for unit in UNITS if unit in record}


def bands(records: Iterable[LogRecord], x: str, y: str) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Median and quartiles over seeds of ``y`` along ``x``, for every task and attention.

    A run that ended early keeps its last value, so that the median is always one over all seeds.

    Returns:
        By task ("" where records have none) and attention: float64 ``x``, ``low``, ``median``, ``high``, all of one
        length.
    """
    grouped: dict[tuple[str, str], list[LogRecord]] = {}
    for record in records:
        if record.get("kind", "epoch") in EVALUATIONS and x in record and y in record:
            grouped.setdefault((record.get("task") or "", record["attention"]), []).append(record)
    names = ("x", "low", "median", "high")
    return {key: dict(zip(names, band(own, x, y), strict=True)) for key, own in grouped.items()}


def common_units(runs: Sequence[Run]) -> tuple[str, ...]:
    """Units that all runs have."""
    return tuple(unit for unit in UNITS if all(math.isfinite(run.last.get(unit, math.nan)) for run in runs))
