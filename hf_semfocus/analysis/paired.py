"""Speed-up of one attention over another to the target, paired by seed, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .runs import Run
from .times import check_unit, scipy_stats

HUGE = 1e100
"""Replaces infinite ratios where resampled medians are averaged."""
PERMUTATIONS = 9999
"""Sign flips of the signed-rank test, which is exact where there are no more of them: up to 13 pairs."""
LEVEL = 0.05


@dataclass(frozen=True)
class Speedup:
    """The ratio of the baseline's time to that of an attention, over pairs of runs.

    Where a run did not reach the target, its ratio is only known within limits, and so may be the median: a baseline
    that was observed for 60 epochs took at least 60 / 5 times as long as a run that took 5.

    Attributes:
        task, attention, baseline: what is compared.
        unit: "epoch", "step" or "seconds".
        pairs: number of seeds that both have.
        faster, slower: pairs in which the attention was certainly faster or slower than the baseline.
        low, high: limits of the median ratio, equal where it is known.
        interval: limits of a bootstrap interval of the median ratio; None for a single pair.
        test: name of the paired test, two-sided.
        p: p-value of the test; None where no pair decides.
        smallest_p: the smallest p-value that the test can give for so many pairs.
    """

    task: str
    attention: str
    baseline: str
    unit: str
    pairs: int
    faster: int
    slower: int
    low: float
    high: float
    interval: tuple[float, float] | None
    test: str
    p: float | None
    smallest_p: float

    @property
    def enough(self) -> bool:
        """Whether there are enough pairs for a p below 5 %."""
        return self.smallest_p < LEVEL


def speedups(
    runs: Sequence[Run],
    baseline: str,
    unit: str = "epoch",
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> list[Speedup]:
    """Compare every attention with a baseline, by pairs of the same task and seed.

    The test is Wilcoxon's signed-rank test on logarithms of ratios, exact by sign flips, where all of these are known;
    where a run did not reach the target, or only one pair decides, it is the sign test over the pairs that do.

    Args:
        runs: of :func:`find_runs`.
        baseline: an attention.
        unit: "epoch", "step" or "seconds".
        confidence: of the bootstrap interval (percentiles).
        resamples: of the bootstrap.
        seed: of the bootstrap and of the test.

    Raises:
        ImportError: SciPy is not installed.
        ValueError: there is no run of the baseline, or a run whose records have no such unit.
    """
    check_unit(runs, unit)
    if baseline not in (attentions := dict.fromkeys(run.attention for run in runs)):
        raise ValueError(f"baseline={baseline!r}; expected one of {', '.join(attentions)}")
    found = []
    for task, attention in dict.fromkeys((run.task, run.attention) for run in runs):
        own, base = (
            {run.seed: run for run in runs if (run.task, run.attention) == (task, name)}
            for name in (attention, baseline)
        )
        ratios = [_ratio(base[seed], own[seed], unit) for seed in own if seed in base]
        if attention != baseline and ratios:
            compared = _compared(np.asarray(ratios, dtype=np.float64).T, confidence, resamples, seed)
            found.append(Speedup(task, attention, baseline, unit, len(ratios), **compared))
    return found


def together(runs: Sequence[Run], name: str) -> list[Run]:
    """Runs of several tasks as those of one task, ``name``, in which every task and seed is a seed of its own."""
    seeds = {who: number for number, who in enumerate(dict.fromkeys((run.task, run.seed) for run in runs))}
    return [replace(run, task=name, seed=seeds[run.task, run.seed]) for run in runs]


def holm(values: Sequence[float | None]) -> list[float | None]:
    """P-values of several tests, adjusted so that the chance of any false one stays at the level (Holm, 1979).

    Args:
        values: p-values; None where a test could not decide, which does not count.
    """
    order = sorted((p, place) for place, p in enumerate(values) if p is not None)
    found: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        found[place] = highest
    return found


def _ratio(base: Run, own: Run, unit: str) -> tuple[float, float]:
    """Limits of the baseline's time divided by the run's."""
    (base_low, base_high), (own_low, own_high) = _limits(base, unit), _limits(own, unit)
    low = 0.0 if math.isinf(own_high) else base_low / own_high
    high = math.inf if math.isinf(base_high) else base_high / own_low
    return low, high


def _limits(run: Run, unit: str) -> tuple[float, float]:
    """Limits of the time to the target, which a run that diverged will never reach."""
    if run.reached is not None:
        return run.reached[unit], run.reached[unit]
    return (math.inf if run.diverged else run.last[unit]), math.inf


def _compared(ratios: np.ndarray, confidence: float, resamples: int, seed: int) -> dict[str, Any]:
    """Median, interval and test of ratios, given by their limits ``[2, pairs]``."""
    stats = scipy_stats()
    low, high = np.minimum(ratios, HUGE)
    interval = None
    if low.size > 1:
        options = {"method": "percentile", "confidence_level": confidence, "n_resamples": resamples}
        ends = [
            stats.bootstrap((each,), np.median, rng=np.random.default_rng(seed), **options).confidence_interval
            for each in (low, high)
        ]
        interval = _shown(ends[0].low), _shown(ends[1].high)
    faster, slower = int((low > 1).sum()), int((high < 1).sum())
    decide = faster + slower
    ranked = decide > 1 and bool(np.all((low == high) & (low > 0) & (low < HUGE)))
    p = None
    if ranked:
        flips = stats.PermutationMethod(n_resamples=PERMUTATIONS, rng=np.random.default_rng(seed))
        logs = np.log(low[low != 1])
        p = float(stats.wilcoxon(logs, method=flips).pvalue)
    elif decide:
        p = float(stats.binomtest(faster, decide).pvalue)
    return {
        "faster": faster,
        "slower": slower,
        "low": _shown(np.median(low)),
        "high": _shown(np.median(high)),
        "interval": interval,
        "test": "Wilcoxon signed-rank" if ranked else "sign",
        "p": p,
        "smallest_p": 2.0 ** (1 - decide) if decide else 1.0,
    }


def _shown(ratio: float) -> float:
    return math.inf if ratio > HUGE * 1e-3 else float(ratio)
