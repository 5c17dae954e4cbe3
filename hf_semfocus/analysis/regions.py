"""Plots of where the paper's conditions hold: for each dispersion, the smallest sufficient separation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..figures import STYLES, new_figure
from .claims import smallest_c2_w, smallest_c2_x

DISPERSIONS = (0.25, 0.5, 1, 1.5, 2, 2.5, 3, 4, 8, 16, 32)
SINK_RATIOS = (1, 2, 4, 8, 16, 32)
LOWEST, HIGHEST = 1e-9, 1e2
"""Range of c2 that is drawn."""


def draw_regions_w(path: Path) -> None:
    """Draw, for dispersions delta_s, the c2 above which the paper's condition on parameters holds, against c1.

    Args:
        path: image file to write; the suffix decides the format.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(figsize=(7, 5))
    axis = figure.subplots()
    _draw(axis, smallest_c2_w)
    figure.suptitle("The paper's condition on parameters, lambda_W < 1, holds above a line")
    axis.set_xlabel("c1 = delta_h / delta_s")
    axis.set_ylabel("c2 = Delta_h / delta_s")
    _legend(figure, axis)
    figure.savefig(path, dpi=120)


def draw_regions_x(path: Path) -> None:
    """The same of the condition on inputs, a panel for each sink ratio beta' = beta / k.

    Args:
        path: image file to write; the suffix decides the format.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(figsize=(12, 7))
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for axis, ratio in zip(axes.flat, SINK_RATIOS, strict=True):
        _draw(axis, lambda c1, delta_s, ratio=ratio: smallest_c2_x(c1, delta_s, ratio))
        axis.set_title(f"beta' = {ratio}")
    for axis in axes[1]:
        axis.set_xlabel("c1 = delta_h / delta_s")
    for axis in axes[:, 0]:
        axis.set_ylabel("c2 = Delta_h / delta_s")
    figure.suptitle("The paper's condition on inputs, lambda_X < 1, holds above a line")
    _legend(figure, axes[0, 0])
    figure.savefig(path, dpi=120)


def _draw(axis: Any, smallest: Callable[[np.ndarray, float], np.ndarray]) -> None:
    """One line for each dispersion, from dark to light as it grows."""
    from matplotlib import colormaps

    c1 = np.linspace(0, 1, 2001)
    for number, delta_s in enumerate(DISPERSIONS):
        color = colormaps["cividis"](0.85 * number / (len(DISPERSIONS) - 1))
        c2 = smallest(c1, delta_s)
        c2[np.isfinite(c2).sum() :][:1] = 1e3 * HIGHEST  # draws the asymptote up to the edge
        axis.plot(c1, c2, color=color, linestyle=STYLES[number % len(STYLES)], label=f"{delta_s:g}")
    axis.set_yscale("log")
    axis.set_xlim(0, 1)
    axis.set_ylim(LOWEST, HIGHEST)
    axis.grid(alpha=0.3)


def _legend(figure: Any, axis: Any) -> None:
    figure.legend(*axis.get_legend_handles_labels(), title="delta_s\n(no line: nowhere)", loc="outside right center")
