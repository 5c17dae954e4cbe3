"""Which keys are sinks: how many queries keep a key."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..charts import Bars, Chart
from ..sections import Section, panel
from ..study import Side, Study

STEPS = 4001
"""Quantiles that stand for a distribution."""


@panel(50)
def in_degree(study: Study) -> Section | None:
    """A histogram of in-degrees with bins that double."""
    sides = [side for side in study.sides if side.record.pooled("in_degree").count]
    if not sides:
        return None
    largest = max(_largest(side) for side in sides)
    edges = [0.0, 1.0, 2.0]
    while edges[-1] <= largest:
        edges.append(edges[-1] * 2)
    labels = [_label(int(low), int(high) - 1) for low, high in pairwise(edges)]
    bars = [Bars(side.name, _shares(side, edges)) for side in sides]
    title = "In-degree: queries that keep a key"
    chart = Chart("in_degree", title, "queries that keep a key (beta)", "share of keys", bars=bars, labels=labels)
    most = "; ".join(f"{side.name}: {_largest(side):.0f}" for side in sides)
    words = [f"Keys that many queries keep are sinks. The largest in-degree: {most}."]
    return Section("Sinks", words, [chart])


def _largest(side: Side) -> float:
    return float(side.record.pooled("in_degree").quantiles([1.0])[0])


def _shares(side: Side, edges: list[float]) -> list[float]:
    values = side.record.pooled("in_degree").quantiles(np.linspace(0, 1, STEPS))
    counts, _ = np.histogram(values[values == np.rint(values)], edges)  # others lie between two degrees
    return [float(share) for share in counts / counts.sum()]


def _label(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
