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
        family: number of comparisons that are adjusted together, which are those that a pair decides.
        least: the smallest adjusted p-value that its number of pairs allows, as the others are.
    """

    speedup: Speedup
    p: float | None
    family: int
    least: float

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
            values = [each.p for each in family]
            for place, (each, p) in enumerate(zip(family, holm(values), strict=True)):
                least = holm([*values[:place], each.smallest_p, *values[place + 1 :]])[place]
                compared = Compared(each, p, len(values) - values.count(None), least)
                adjusted[each.task, each.attention, each.baseline] = compared
    return adjusted
