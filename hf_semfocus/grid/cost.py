"""What the rest of a grid costs: steps of the runs that are left, times the measured seconds of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from .points import Point
from .results import Results

SHAPE = ("command", "task", "model", "num_layers", "num_heads", "hidden_size", "intermediate_size", "batch_size")
SHAPE += ("block_size", "activation", "dataset", "optimizer")
"""Options that decide, with the attention, how long a step takes."""
Alike = tuple[Any, ...]


@dataclass(frozen=True)
class Cost:
    """The cost of runs that are left, on one CPU thread each.

    Attributes:
        runs: their number.
        seconds: if each takes as many steps as finished runs alike did on average, or else all of its steps.
        at_most: seconds if each takes all of its steps.
        unknown: number of runs without a measured step, which do not count.
    """

    runs: int
    seconds: float
    at_most: float
    unknown: int

    def __str__(self) -> str:
        known = self.runs - self.unknown
        if not known:
            return "cost unknown, as no step was measured yet" if self.runs else "no cost"
        rest = f", and {self.unknown} runs whose step was not measured" if self.unknown else ""
        return f"about {hours(self.seconds)} CPU hours, at most {hours(self.at_most)}{rest}"


def hours(seconds: float) -> str:
    """Seconds in hours, to three digits."""
    return f"{seconds / 3600:,.0f}" if seconds >= 360000 else f"{seconds / 3600:.3g}"


def cost(points: Sequence[Point], steps: Callable[[Point], int | None], measured: Sequence[Results]) -> Cost:
    """Estimate the cost of points.

    Args:
        points: those that are left.
        steps: of a point at most; None if they are not known.
        measured: results whose times and steps count. A point takes what those of the same attention and sizes took,
            or else those of the same sizes, or of the same task: their median.
    """
    runs = [run for results in measured for run in results.runs]
    options = {run["point"]: run for run in runs}
    seconds = _by_likeness(
        (options[line["point"]], line["seconds_per_step"]) for results in measured for line in results.times
    )
    taken = _by_likeness((run, run) for run in runs if run["status"] != "diverged" and "step" in run)
    found, highest, unknown = 0.0, 0.0, 0
    for point in points:
        of = {"command": point.command, **point.options}
        step = next((median(seconds[key]) for key in _keys(of) if key in seconds), None)
        limit = steps(point)
        alike = [run["step"] for run in taken.get(_keys(of)[0], ()) if _tells(run, limit)]
        most = limit or max(alike, default=None)
        if step is None or most is None:
            unknown += 1
            continue
        highest += most * step
        found += (min(most, mean(alike)) if alike else most) * step
    return Cost(len(points), found, highest, unknown)


def step_seconds(points: Sequence[Point], measured: Results) -> dict[str, float]:
    """Median seconds of a step by the name of a point, where runs of its task, attention and sizes were measured."""
    options = {run["point"]: run for run in measured.runs}
    seconds = _by_likeness((options[line["point"]], line["seconds_per_step"]) for line in measured.times)
    keys = {point.name: _keys({"command": point.command, **point.options})[0] for point in points}
    return {name: median(seconds[key]) for name, key in keys.items() if key in seconds}


def steps_at_most(configuration: Mapping[str, Any], train_size: int | None) -> int | None:
    """Steps of a run that never reaches its target.

    Args:
        configuration: of a point.
        train_size: examples of its task; None if they are not known.
    """
    size = configuration.get("train_size") or train_size
    epochs = None if size is None else configuration["epochs"] * math.ceil(size / configuration["batch_size"])
    limits = [limit for limit in (epochs, configuration.get("max_steps")) if limit is not None]
    return min(limits, default=None)


def _tells(run: Mapping[str, Any], limit: int | None) -> bool:
    """Whether the steps of a run tell how many one of at most ``limit`` takes: ``max_steps`` did not end it before."""
    return run["step"] != run.get("max_steps") or (limit is not None and limit <= run["step"])


def _keys(options: Mapping[str, Any]) -> list[Alike]:
    """What a point has in common with others, from most to least; a task's parameters count but in the last."""
    shape = tuple(options.get(name) for name in SHAPE)
    task = str(options.get("task")).partition(":")[0]
    return [(*shape, options.get("attention")), shape, (options["command"], task)]


def _by_likeness(values: Iterable[tuple[Mapping[str, Any], Any]]) -> dict[Alike, list[Any]]:
    found: dict[Alike, list[Any]] = {}
    for options, value in values:
        for key in _keys(options):
            found.setdefault(key, []).append(value)
    return found
