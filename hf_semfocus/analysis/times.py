"""Times to a target where some runs never reach it: Kaplan-Meier medians, which treat those runs as censored.

Leaving such runs out, or counting their length as their time, would make an attention look faster the more of its runs
fail. Needs SciPy, which comes with the extra ``hf_semfocus[analysis]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .runs import Run


def scipy_stats() -> Any:
    """The module ``scipy.stats``.

    Raises:
        ImportError: SciPy is not installed.
    """
    try:
        from scipy import stats
    except ImportError:
        raise ImportError("statistics over seeds need SciPy; pip install 'hf_semfocus[analysis]'") from None
    return stats


@dataclass(frozen=True)
class Quantile:
    """A quantile of times, or a lower limit of it.

    Attributes:
        value: the time.
        reached: whether that many runs reached the target; else ``value`` is a lower limit.
    """

    value: float
    reached: bool

    def __str__(self) -> str:
        return f"{self.value:.6g}" if self.reached else f"more than {self.value:.6g}"


@dataclass(frozen=True)
class TimeToTarget:
    """Times of the runs of one task and attention.

    Attributes:
        task, attention: of the runs.
        unit: "epoch", "step" or "seconds".
        runs, reached: number of runs, and of those that reached the target.
        low, median, high: Kaplan-Meier quartiles.
    """

    task: str
    attention: str
    unit: str
    runs: int
    reached: int
    low: Quantile
    median: Quantile
    high: Quantile


def times_to_target(runs: Sequence[Run], unit: str = "epoch") -> list[TimeToTarget]:
    """Quartiles of the time to the target for every task and attention.

    A run that was stopped is censored at that time. One that diverged never reaches the target: it is censored at the
    longest time of any run.

    Args:
        runs: of :func:`find_runs`.
        unit: "epoch", "step" or "seconds".

    Raises:
        ImportError: SciPy is not installed.
        ValueError: there is a run whose records have no such unit.
    """
    check_unit(runs, unit)
    found = []
    longest = max((run.last[unit] for run in runs), default=0.0)
    for task, attention in dict.fromkeys((run.task, run.attention) for run in runs):
        own = [run for run in runs if (run.task, run.attention) == (task, attention)]
        reached = [run.reached is not None for run in own]
        times = [
            run.reached[unit] if run.reached is not None else longest if run.diverged else run.last[unit]
            for run in own
        ]
        quartiles = [survival_quantile(times, reached, q) for q in (0.25, 0.5, 0.75)]
        found.append(TimeToTarget(task, attention, unit, len(own), sum(reached), *quartiles))
    return found


def survival_quantile(times: Sequence[float], reached: Sequence[bool], q: float) -> Quantile:
    """The Kaplan-Meier estimate of the time by which a share ``q`` of runs has reached the target.

    Where the survival estimate is exactly 1 - q between two times, the result is their midpoint.

    Args:
        times: when the target was reached, or when the run was censored.
        reached: whether the target was reached.
        q: in (0, 1).

    Raises:
        ImportError: SciPy is not installed.
    """
    stats = scipy_stats()
    estimate = stats.ecdf(stats.CensoredData.right_censored(times, ~np.asarray(reached, dtype=bool))).sf
    at_most, below = (estimate.probabilities <= 1 - q + 1e-9), (estimate.probabilities < 1 - q - 1e-9)
    if not at_most.any():
        return Quantile(float(max(times)), False)
    first = estimate.quantiles[at_most.argmax()]
    following = estimate.quantiles[below.argmax()] if below.any() else max(times)
    return Quantile(float(first + following) / 2, bool(below.any()))


def check_unit(runs: Sequence[Run], unit: str) -> None:
    """Refuse a unit that a run does not have.

    Raises:
        ValueError: names the run and its units.
    """
    for run in runs:
        if unit not in run.last:
            raise ValueError(
                f"unit={unit!r}, but {run.attention} with seed {run.seed} has {', '.join(run.last) or 'no times'}"
            )
