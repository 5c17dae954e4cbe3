"""What a grid has found: ``runs.jsonl``, a line per run, and ``evaluations.jsonl``, a line per evaluation.

A run whose line is there is finished, even where its folder is gone. Times are left out: they depend on what else the
machine did, where steps do not. ``pandas.read_json("runs.jsonl", lines=True)`` reads either file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import json_lines
from .points import Point

LEFT_OUT = ("seconds", "steps_per_second", "tokens_per_second", "peak_memory_mb", "kind", "run", "seed")
RUNS, EVALUATIONS = "runs.jsonl", "evaluations.jsonl"
EVALUATED = ("epoch", "step", "train_loss", "train_accuracy", "eval_loss", "eval_accuracy", "eval_perplexity")


class Results:
    """The lines of a grid's finished runs.

    Args:
        folder: where the two files are, or will be.

    Raises:
        ValueError: a line of theirs is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.read()

    def read(self) -> None:
        """Read the files again, which another process may have written."""
        self.runs = json_lines.read(self.folder / RUNS, "point")
        finished = {run["point"] for run in self.runs}
        # those of a run that has no line were written by a process that died just then
        self.evaluations = [
            line for line in json_lines.read(self.folder / EVALUATIONS, "point") if line["point"] in finished
        ]

    def __contains__(self, point: Point) -> bool:
        """Whether the point is finished."""
        return any(run["point"] == point.name for run in self.runs)

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
        self.runs.append({"point": point.name, "command": point.command, **point.options, **_lasting(result)})
        self.folder.mkdir(parents=True, exist_ok=True)
        json_lines.write(self.folder / EVALUATIONS, self.evaluations)
        json_lines.write(self.folder / RUNS, self.runs)


def _lasting(value: Any) -> Any:
    """A result without its times and what the options say already, at any depth."""
    if isinstance(value, Mapping):
        return {name: _lasting(item) for name, item in value.items() if name not in LEFT_OUT}
    return _short(value)


def _short(value: Any) -> Any:
    """A number with six digits, or None if it is not finite."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
