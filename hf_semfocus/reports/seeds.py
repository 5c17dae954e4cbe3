"""Statistics over seeds: the time of each attention to the target, and paired speed-ups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.paired import LEVEL, Speedup, speedups
from ..analysis.runs import Target, common_units, find_runs
from ..analysis.times import times_to_target
from ..tables import markdown_table

PLURALS = {"epoch": "epochs", "step": "steps", "seconds": "seconds"}


def section(records: Sequence[Mapping[str, Any]], target: Target, baseline: str) -> str:
    """Two Markdown tables with explanations: times to the target, and speed-ups over a baseline by seed.

    Args:
        records: lines of ``metrics.jsonl``, of several seeds.
        target: the target of the runs.
        baseline: the attention that the others are compared with.

    Raises:
        ImportError: SciPy is not installed.
    """
    runs = find_runs(records, target)
    units = common_units(runs)
    times = {unit: times_to_target(runs, unit) for unit in units}
    rows = [["attention", "reached it", *(PLURALS[unit] for unit in units)]]
    for each in zip(*times.values(), strict=True):
        cells = [f"{one.median} [{one.low}, {one.high}]" for one in each]
        rows.append([_named(each[0]), f"{each[0].reached} of {each[0].runs}", *cells])
    parts = [
        "Time to the target, median [quartiles] by Kaplan and Meier: runs that did not reach it count as watched "
        "until their end.",
        markdown_table(rows),
    ]
    faster = [found for unit in units for found in speedups(runs, baseline, unit)]
    if faster:
        parts += [
            f"Speed-up over `{baseline}`, by pairs of the same seed: median of how many times as long it takes, with "
            "a 95% bootstrap interval, and a two-sided paired test.",
            markdown_table([HEADER, *map(_row, faster)]),
        ]
        if few := [found for found in faster if not found.enough]:
            least = min(found.smallest_p for found in few)
            parts.append(
                f"Too few pairs decide for a p below {LEVEL:g}, whatever they show: the smallest possible is "
                f"{least:.2g}."
            )
    return "\n\n".join(parts)


HEADER = ["attention", "in", "pairs", "faster", "slower", "speed-up", "95% interval", "test", "p"]


def _row(found: Speedup) -> list[str]:
    counts = [str(number) for number in (found.pairs, found.faster, found.slower)]
    p = "-" if found.p is None else f"{found.p:.2g}"
    return [
        _named(found),
        PLURALS[found.unit],
        *counts,
        between(found.low, found.high),
        interval(found),
        found.test,
        p,
    ]


def _named(found: Any) -> str:
    return f"{found.task}, {found.attention}" if found.task else found.attention


def interval(found: Speedup) -> str:
    """The bootstrap interval of a speed-up."""
    return "-" if found.interval is None else f"{_times(found.interval[0])} to {_times(found.interval[1])}"


def between(low: float, high: float) -> str:
    """A ratio of which limits are known."""
    if low == high:
        return _times(low)
    if low == 0 and math.isinf(high):
        return "not known"
    if math.isinf(high):
        return f"at least {_times(low)}"
    return f"{_times(low)} to {_times(high)}" if low else f"at most {_times(high)}"


def _times(ratio: float) -> str:
    return "unbounded" if math.isinf(ratio) else f"{ratio:.2f}"
