"""Results of several processors side by side, for the README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..tables import markdown_table
from .contestants import OURS, SDPA

Measurements = Mapping[str, Any]


class Row(NamedTuple):
    """What one processor reached in one case or training step.

    Attributes:
        kind: "attention" or "training step".
        case, mechanism: what was measured.
        goal: required speed-up over ``sdpa``; None for none.
        speedup: over ``sdpa``.
        peaks: peak memory of ours and of ``sdpa`` in 10**6 bytes; None if not measured.
    """

    kind: str
    case: str
    mechanism: str
    goal: float | None
    speedup: float
    peaks: tuple[float, float] | None = None

    @property
    def label(self) -> tuple[str, str]:
        """Case and mechanism, as the table shows them."""
        return (self.case if self.kind == "attention" else f"{self.kind}: {self.case}", self.mechanism)


def summary(results: Sequence[Measurements]) -> str:
    """Table of the speed-ups over ``sdpa``, a column per processor, and the lowest of all as a sentence, in Markdown.

    Args:
        results: of :func:`hf_semfocus.benchmark.run`, or the JSON that they became.
    """
    columns = [{row.label: row for row in _rows(result)} for result in results]
    devices = [result["environment"]["device"] for result in results]
    table = [["case", "attention", "goal", *devices, "peak MB (sdpa's)"]]
    for label in dict.fromkeys(label for column in columns for label in column):
        found = [column.get(label) for column in columns]
        rows = [row for row in found if row is not None]
        goal = "-" if rows[0].goal is None else f"{rows[0].goal:g}"
        peaks = max((row.peaks for row in rows if row.peaks is not None), default=None)
        memory = "-" if peaks is None else "{:.1f} ({:.1f})".format(*peaks)
        table.append([*label, goal, *("-" if row is None else f"{row.speedup:.2f}" for row in found), memory])
    ran = [_ran(result["environment"]) for result in results]
    return "\n\n".join([markdown_table(table), f"Ran on {'; '.join(ran)}.", *_lowest(columns, devices)])


def _rows(result: Measurements) -> Iterator[Row]:
    """Cases with a goal or of another type than float32, then training steps."""
    for each in result["cases"]:
        case, ratio, memory = each["case"], each["ratios"][SDPA], each["memory"]
        if "goal" in ratio or case["dtype"] != "float32":
            peaks = tuple(memory[name]["megabytes"] for name in (OURS, SDPA) if "megabytes" in memory.get(name, {}))
            shape = each["label"].removesuffix(case["mechanism"]).strip()
            goal, both = ratio.get("goal"), peaks if len(peaks) == 2 else None
            yield Row("attention", shape, case["mechanism"], goal, ratio["times_faster"], both)
    for each in result["steps"]:
        yield Row("training step", each["label"], each["mechanism"], each.get("goal"), each["times_faster"])


def _ran(where: Measurements) -> str:
    return (
        f"{where['device']}, {where['threads']} threads of {where['cores']} cores, {where['date']}, load "
        f"{where['load_at_start']} to {where.get('load_at_end', 'unknown')}"
    )


def _lowest(columns: Sequence[Mapping[tuple[str, str], Row]], devices: Sequence[str]) -> Iterator[str]:
    """The lowest speed-up of each kind of rows, and the goals that were missed."""
    on = [f" on {device}" if len(devices) > 1 else "" for device in devices]
    every = [(row, where) for column, where in zip(columns, on, strict=True) for row in column.values()]
    lowest = []
    for kind in dict.fromkeys(row.kind for row, _ in every):
        row, where = min(((r, w) for r, w in every if r.kind == kind), key=lambda pair: pair[0].speedup)
        lowest.append(f"{row.speedup:.2f} for {row.kind} ({row.case}, {row.mechanism}{where})")
    if lowest:
        yield f"Lowest of all: {'; '.join(lowest)}."
    missed = [
        f"{row.case} {row.mechanism}{where}" for row, where in every if row.goal is not None and row.speedup < row.goal
    ]
    if missed:
        yield f"Missed goals: {'; '.join(missed)}."
