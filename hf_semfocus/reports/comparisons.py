"""The paired comparisons that a grid makes, with p-values adjusted for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..analysis.paired import Speedup, holm, speedups, together
from ..analysis.runs import Run

BASELINE, FOCUS, CONTROL = "sdpa", "topk_sparse", "random_sparse"
"""Top-k is compared with full attention and with random keys: is it what is kept, or only how few keys are?"""
ALL_TASKS = "all tasks together"


class Compared(NamedTuple):
    """A comparison among others.

    Attributes:
        speedup: of an attention over a baseline.
        p: the p-value, adjusted; None where no pair decides.
        family: number of comparisons that it is adjusted for, which are those that a pair decides.
    """

    speedup: Speedup
    p: float | None
    family: int

    @property
    def focused(self) -> bool:
        """Whether it is one of top-k."""
        return self.speedup.attention.startswith(FOCUS)


Key = tuple[str, str, str]
"""Task or setting, attention, baseline."""


def compare(runs: Sequence[Run], all_tasks: bool) -> Mapping[Key, Compared]:
    """Compare all attentions with full attention, and top-k with random keys, by pairs of the same task and seed.

    A grid asks whether top-k is faster, so the comparisons of top-k are a family that Holm's method adjusts, and those
    of other attentions, which explain the answer, are another. Tests of all tasks together are families of their own.

    Args:
        runs: of a grid.
        all_tasks: whether to add comparisons over all tasks, if there are several, as those of ``ALL_TASKS``.

    Raises:
        ImportError: SciPy is not installed.
    """
    adjusted: dict[Key, Compared] = {}
    several = all_tasks and len({run.task for run in runs}) > 1
    for tested in [runs, together(runs, ALL_TASKS)] if several else [runs]:
        names = list(dict.fromkeys(run.attention for run in tested))
        found = speedups(tested, BASELINE, "step") if BASELINE in names else []
        focused = [each for each in found if each.attention.startswith(FOCUS)]
        others = [each for each in found if not each.attention.startswith(FOCUS)]
        for control in [name for name in names if name.startswith(CONTROL)]:
            focused += [each for each in speedups(tested, control, "step") if each.attention.startswith(FOCUS)]
        for family in (focused, others):
            values = holm([each.p for each in family])
            decided = max(1, len(values) - values.count(None))
            for each, p in zip(family, values, strict=True):
                adjusted[each.task, each.attention, each.baseline] = Compared(each, p, decided)
    return adjusted
