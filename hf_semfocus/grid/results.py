"""What a grid has found: ``runs.jsonl`` has a line per finished run, ``evaluations.jsonl`` one per evaluation.

``times.jsonl`` holds the seconds of a step, apart from these, as they depend on what else the machine did, where steps
and losses do not. ``lengths.jsonl`` has a line per length that a model was tested on, ``quantities.jsonl`` one
per model whose attention was measured. ``failed.jsonl`` holds the runs that failed, until they succeed. A run whose
line is in ``runs.jsonl`` is finished, even where its folder is gone.
``pandas.read_json("runs.jsonl", lines=True)`` reads any of these, and
``pandas.json_normalize([json.loads(line) for line in open("runs.jsonl")])`` makes columns of nested values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import json_lines
from .jobs import Failure
from .points import Point, digest_of

if TYPE_CHECKING:
    import pandas as pd

LEFT_OUT = ("seconds", "steps_per_second", "tokens_per_second", "peak_memory_mb", "kind", "run", "seed")
RUNS, EVALUATIONS, TIMES, FAILED = "runs.jsonl", "evaluations.jsonl", "times.jsonl", "failed.jsonl"
LENGTHS, QUANTITIES = "lengths.jsonl", "quantities.jsonl"
EVALUATED = ("epoch", "step", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy", "eval_perplexity")


class Results:
    """The lines of a grid's finished runs.

    Args:
        folder: where the files are, or will be.

    Attributes:
        runs, evaluations, times, lengths, quantities: lines of the files.
        failed: lines of the runs that failed, by the name of the point.

    Raises:
        ValueError: a line is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.read()

    def read(self) -> None:
        """Read the files again, which another process may have written."""
        self.runs = self._lines(RUNS)
        finished = self._finished = {digest_of(run["point"]) for run in self.runs}
        # those of a run that has no line were written by a process that died just then
        self.evaluations, self.times, self.lengths, self.quantities = (
            [line for line in self._lines(name) if digest_of(line["point"]) in finished]
            for name in (EVALUATIONS, TIMES, LENGTHS, QUANTITIES)
        )
        failed = [line for line in self._lines(FAILED) if digest_of(line["point"]) not in finished]
        self.failed = {line["point"]: line for line in failed}

    def __contains__(self, point: Point) -> bool:
        """Whether the point is finished, whatever name another grid gave it."""
        return point.digest in self._finished

    def add(self, point: Point, result: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> None:
        """Write down a finished run: its evaluations first, its own line last.

        Args:
            point: which.
            result: what the training returned.
            records: of its log; those that evaluate count.
        """
        for record in records:
            if record["kind"] in ("epoch", "eval"):
                shown = {name: _short(record[name]) for name in EVALUATED if name in record}
                self.evaluations.append({"point": point.name, **shown})
        if result.get("steps_per_second"):
            self.times.append({"point": point.name, "seconds_per_step": _short(1 / result["steps_per_second"])})
        self.runs.append({"point": point.name, "command": point.command, **point.options, **_lasting(result)})
        self._finished.add(point.digest)
        for name, lines in ((EVALUATIONS, self.evaluations), (TIMES, self.times), (RUNS, self.runs)):
            self._write(name, lines)
        if self.failed.pop(point.name, None):
            self._write(FAILED, self.failed.values())

    def add_failure(self, failure: Failure) -> None:
        """Write down a run that failed to the last."""
        line = {"point": failure.name, "status": failure.status, "last_lines": failure.last_lines}
        self.failed[failure.name] = line
        self._write(FAILED, self.failed.values())

    def add_lengths(self, point: Point, found: Iterable[Mapping[str, Any]]) -> None:
        """Write down how the model of a finished run does on rows of other lengths."""
        for line in found:
            self.lengths.append({"point": point.name, **{name: _short(value) for name, value in line.items()}})
        self._write(LENGTHS, self.lengths)

    def add_quantities(self, point: Point, found: Mapping[str, Any]) -> None:
        """Write down what was measured of the attention of a finished run's model."""
        self.quantities.append({"point": point.name, **_rounded(found)})
        self._write(QUANTITIES, self.quantities)

    def table(self) -> pd.DataFrame:
        """A row per run with flat columns: ``reached`` becomes ``reached_epoch`` and ``reached_step``."""
        import pandas as pd

        return pd.json_normalize(self.runs, sep="_").drop(columns=["sessions", "reached"], errors="ignore")

    def _write(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        json_lines.write(self.folder / name, lines)

    def _lines(self, name: str) -> list[dict[str, Any]]:
        return json_lines.read(self.folder / name, "point")


def _lasting(value: Any) -> Any:
    """A result without its times and what the options say already, at any depth."""
    if isinstance(value, Mapping):
        return {name: _lasting(item) for name, item in value.items() if name not in LEFT_OUT}
    return _short(value)


def _rounded(value: Any) -> Any:
    """The same with short numbers, at any depth."""
    return {name: _rounded(item) for name, item in value.items()} if isinstance(value, Mapping) else _short(value)


def _short(value: Any) -> Any:
    """A number with six digits, or None if it is not finite."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
