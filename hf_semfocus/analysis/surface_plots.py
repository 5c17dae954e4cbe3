"""Plots of loss landscapes and their slopes for any number of models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..figures import COLORS, STYLES, new_figure
from .landscapes import Landscape
from .slopes import PERCENTILES, lipschitz

LEVELS = 14
SLOPE_UNITS = {"parameters": "nats / ||Theta - Theta'||", "grid": "nats / step of the grid (official scripts)"}


def draw_landscapes(landscapes: Mapping[str, Landscape], path: Path) -> None:
    """Draw contours of the loss at the same log-spaced levels in a panel for each model.

    Args:
        landscapes: by the name that is shown.
        path: image file to write; the suffix decides the format.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is not a landscape, or no finite loss.
    """
    losses = [each.loss[np.isfinite(each.loss)] for each in landscapes.values()]
    if not losses or not any(loss.size for loss in losses):
        raise ValueError(f"{len(losses)} landscapes without a finite loss; expected at least one finite loss")
    lowest = max(1e-6, min(float(loss.min()) for loss in losses if loss.size))
    highest = max(lowest * 1.01, max(float(loss.max()) for loss in losses if loss.size))
    levels = np.geomspace(lowest, highest, LEVELS)
    figure = new_figure(figsize=(1.5 + 4.5 * len(losses), 4.8))
    axes = figure.subplots(1, len(losses), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, each) in zip(axes, landscapes.items(), strict=True):
        shown = np.clip(each.loss.T, lowest, highest)
        filled = axis.contourf(each.axis, each.axis, shown, levels=levels, cmap="cividis", norm="log")
        lines = axis.contour(each.axis, each.axis, shown, levels=levels[1::3], colors="white", linewidths=0.8)
        axis.clabel(lines, fmt="%.2g", fontsize=7)
        axis.plot(0, 0, marker="+", color="white", markersize=9)
        axis.set_title(name)
        axis.set_xlabel("x, along d1")
        axis.set_aspect("equal")
        axis.locator_params(nbins=5)
    axes[0].set_ylabel("y, along d2")
    figure.colorbar(filled, ax=list(axes), label="loss (nats)", format="%.2g", ticks=levels[::3])
    figure.savefig(path, dpi=120)


def draw_lipschitz(landscapes: Mapping[str, Landscape], path: Path) -> None:
    """Draw the empirical Lipschitz curve of each model, with a panel per denominator.

    Args:
        landscapes: by the name that is shown.
        path: image file to write; the suffix decides the format.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(figsize=(11, 5.2))
    axes = figure.subplots(1, len(SLOPE_UNITS), sharex=True)
    for axis, (denominator, unit) in zip(axes, SLOPE_UNITS.items(), strict=True):
        for number, (name, each) in enumerate(landscapes.items()):
            rows = [row for row in lipschitz(each) if row["denominator"] == denominator]
            for style, percentile in zip(STYLES, PERCENTILES, strict=True):
                points = [(row["radius"], row["value"]) for row in rows if row["percentile"] == percentile]
                color = COLORS[number % len(COLORS)]
                line = {"linestyle": style, "color": color, "label": f"{name}, {percentile}%"}
                axis.step(*np.asarray(points).reshape(-1, 2).T, where="post", **line)
        axis.set_yscale("log")
        axis.set_xlabel("radius t of the window |x|, |y| <= t")
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle("Difference of neighboring losses over their distance, percentiles")
    figure.savefig(path, dpi=120)
