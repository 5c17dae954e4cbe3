"""Timing of contestants in turn, so that other load on the machine affects all of them equally."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..messages import brief
from ..tables import quartiles

LEAST_REPEATS = 7
"""Least number of repetitions for a ratio to count as measured."""
SHORTEST = 0.05
"""Shortest time of a repetition in seconds: faster contestants are called several times in it."""
SLOW, FEW = 2.0, 3
"""A contestant without a goal takes part in ``FEW`` repetitions only if a call takes over ``SLOW`` seconds."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, a value per repetition, each the mean of ``calls`` calls in a row."""

    seconds: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        """Median over the repetitions, in seconds."""
        return statistics.median(self.seconds)

    def as_dict(self) -> dict[str, Any]:
        """Median and quartiles in seconds, and numbers of repetitions and calls."""
        low, middle, high = quartiles(self.seconds)
        return {
            "median": float(f"{middle:.5g}"),
            "quartiles": [float(f"{low:.5g}"), float(f"{high:.5g}")],
            "repetitions": len(self.seconds),
            "calls_per_repetition": self.calls,
        }


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that synchronizes with the device."""
    if device.type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def measure(
    contestants: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    context: Collection[str] = (),
    prepare: Mapping[str, Callable[[], Any]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    shortest: float = SHORTEST,
    slow: float = SLOW,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time the contestants in rounds: A B C, A B C, ...

    Each begins with a call that is not timed, but for those whose first call takes more than ``slow`` seconds.

    Args:
        contestants: functions by name.
        repeats: number of rounds.
        context: names without goals: slow ones only take part in the first rounds, and those whose first call fails
            are left out.
        prepare: called with a name before each of its repetitions, outside of the time.
        clock: returns seconds.
        shortest: shortest time of a repetition in seconds.
        slow: seconds of a call above which one of ``context`` is slow.

    Returns:
        The timings, and the error messages of those that failed, by name.
    """
    prepare = prepare or {}

    def timed(name: str, calls: int, warm: bool = False) -> float:
        prepare.get(name, _nothing)()
        call = contestants[name]
        if warm:
            call()
        start = clock()
        for _ in range(calls):
            call()
        return (clock() - start) / calls

    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        calls, rounds, failures, warm = {}, {}, {}, {}
        for name in contestants:
            try:
                once = timed(name, 1)  # the first call loads and compiles
            except Exception as error:
                if name not in context:
                    raise
                failures[name] = f"failed: {brief(error)}"
                continue
            if once <= slow:
                once = timed(name, 1)
            calls[name] = max(1, math.ceil(shortest / max(once, 1e-9))) if once < shortest else 1
            rounds[name] = min(repeats, FEW) if name in context and once > slow else repeats
            warm[name] = once <= slow  # as the one before leaves caches and freed memory as it needed them
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(repeats):
            for name in calls:
                if number < rounds[name]:
                    seconds[name].append(timed(name, calls[name], warm[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(tuple(seconds[name]), calls[name]) for name in calls}, failures


def _nothing() -> None:
    pass
