"""Empirical Lipschitz curve of a loss landscape: slopes of the loss between neighboring points of the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .landscapes import Landscape

RADII = tuple(hundredth / 100 for hundredth in range(1, 71))
PERCENTILES = (50, 75, 95, 99)
DENOMINATORS = ("parameters", "grid")
WINDOWS = ("centered", "official")


def lipschitz(
    landscape: Landscape,
    radii: Sequence[float] = RADII,
    percentiles: Sequence[float] = PERCENTILES,
    window: str = "centered",
) -> list[dict[str, Any]]:
    """Percentiles of ``|difference of losses| / distance`` between neighbors along either axis, by radius.

    Args:
        landscape: of :func:`landscape`.
        radii: t, radius of the window that holds both neighbors. One without a pair of neighbors gives no rows.
        percentiles: in [0, 100].
        window: "centered": points with |x| and |y| of at most t. "official": of the grid's indices, ``n // 2
            - m`` to ``n // 2 + m - 1`` with ``m = int(t / step)``, off-center by one cell as in the official scripts.

    Returns:
        Rows with ``radius``, ``percentile``, ``denominator`` and ``value`` in nats per unit of distance. The distance
        of denominator "parameters" is ``||Theta - Theta'||``, as the paper defines it; that of "grid" is the step of
        the grid, as its official scripts compute it, which makes values too large by the length of a direction.

    Raises:
        ValueError: an unknown window.
    """
    if window not in WINDOWS:
        raise ValueError(f"window={window!r}; expected one of {', '.join(WINDOWS)}")
    step = landscape.axis[1] - landscape.axis[0]
    rows = []
    for radius in radii:
        inside = _inside(landscape.axis, radius, step, window)
        loss = landscape.loss[inside, inside]
        differences = [np.abs(np.diff(loss, axis=axis)) for axis in (0, 1)]
        if not differences[0].size:
            continue
        for denominator in DENOMINATORS:
            lengths = landscape.lengths if denominator == "parameters" else (1.0, 1.0)
            slopes = np.concatenate([each.ravel() / (step * n) for each, n in zip(differences, lengths, strict=True)])
            for percentile, value in zip(percentiles, np.percentile(slopes, percentiles), strict=True):
                row = {"radius": radius, "percentile": percentile, "denominator": denominator}
                rows.append({**row, "value": float(value)})
    return rows


def _inside(axis: np.ndarray, radius: float, step: float, window: str) -> slice:
    """Indices along either axis."""
    if window == "official":
        middle, cells = len(axis) // 2, int(radius / step)
        return slice(max(0, middle - cells), middle + cells)
    within = np.flatnonzero(np.abs(axis) <= radius + 1e-9 * step)
    return slice(within[0], within[-1] + 1) if within.size else slice(0, 0)
