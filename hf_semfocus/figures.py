"""Shared by all plots: colors, an empty figure, and curves over seeds as a median with its quartiles.

Drawing needs matplotlib, which comes with the extra ``hf_semfocus[plots]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which color-blind readers can tell apart."""
STYLES = ("-", "--", "-.", ":")


def new_figure(**options: Any) -> Any:
    """An empty matplotlib figure made with ``options``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib; pip install 'hf_semfocus[plots]'") from None
    return Figure(layout="constrained", **options)


def band(records: Sequence[dict[str, Any]], x: str, y: str) -> tuple[np.ndarray, ...]:
    """Median and quartiles over seeds of ``y`` along ``x``.

    Returns:
        Four float64 arrays of one length: x values (those of all seeds, from the first where every seed has a
        value), first quartile, median, third quartile.
    """
    series = []
    for seed in dict.fromkeys(record["seed"] for record in records):
        points = [(r[x], np.nan if r[y] is None else r[y]) for r in records if r["seed"] == seed]
        series.append(np.asarray(points, dtype=np.float64).T)
    first = max(places[0] for places, _ in series)
    grid = np.unique(np.concatenate([places for places, _ in series]))
    grid = grid[grid >= first]
    values = [held[np.searchsorted(places, grid, side="right") - 1] for places, held in series]
    return grid, *np.quantile(np.stack(values), [0.25, 0.5, 0.75], axis=0)
