"""Charts as image files, drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...figures import COLORS, STYLES, new_figure
from .charts import Chart, Heat

FORMATS = (".png", ".svg")
MARKERS = "osD^Xp*"
HATCHES = ("", "//", "xx", "--", "||", "++", "..")
MOST_TICKS = 40
"""Words up to which every one is written beside a matrix."""


def save(chart: Chart, folder: Path) -> None:
    """Write a chart in each of :data:`FORMATS`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(figsize=(6.4, 5.6 if chart.heat is not None else 4.4))
    axis = figure.subplots()
    axis.set_title(_plain(chart.title), fontsize=10, loc="left")
    axis.set_xlabel(_plain(chart.x_label))
    axis.set_ylabel(_plain(chart.y_label))
    if chart.log_y:
        axis.set_yscale("log")
    for number, line in enumerate(chart.lines):
        color = COLORS[number % len(COLORS)]
        style = {"linestyle": STYLES[number % len(STYLES)], "marker": MARKERS[number % len(MARKERS)]}
        axis.plot(line.x, line.y, color=color, label=_plain(line.name), markersize=4, **style)
        if line.low is not None:
            axis.fill_between(line.x, line.low, line.high, color=color, alpha=0.18, linewidth=0)
    if chart.bars:
        _draw_bars(axis, chart)
    if chart.heat is not None:
        _draw_heat(figure, axis, chart.heat)
    if len(chart.lines) + len(chart.bars) > 1:
        figure.legend(*axis.get_legend_handles_labels(), fontsize=8, loc="outside lower center")
    for suffix in FORMATS:
        figure.savefig(folder / f"{chart.name}{suffix}", dpi=120)


def _draw_bars(axis: Any, chart: Chart) -> None:
    places, width = np.arange(len(chart.labels)), 0.8 / len(chart.bars)
    for number, bars in enumerate(chart.bars):
        own = places + (number - (len(chart.bars) - 1) / 2) * width
        look = {"color": COLORS[number % len(COLORS)], "edgecolor": "black", "linewidth": 0.6}
        drawn = axis.bar(own, bars.values, width, label=_plain(bars.name), hatch=HATCHES[number % 7], **look)
        for patch, is_open in zip(drawn, bars.open, strict=False):
            patch.set_hatch("//" if is_open else "")
        if bars.texts:
            axis.bar_label(drawn, [_plain(each) for each in bars.texts], fontsize=8)
    axis.set_xticks(places, [_plain(label) for label in chart.labels], fontsize=8)


def _draw_heat(figure: Any, axis: Any, heat: Heat) -> None:
    from matplotlib.colors import PowerNorm

    low, high = heat.limits or (None, None)
    look = {"norm": PowerNorm(0.5, 0, high)} if heat.weights else {"vmin": low, "vmax": high}
    image = axis.pcolormesh(heat.values, cmap="Blues" if heat.weights else "cividis", rasterized=True, **look)
    figure.colorbar(image, ax=axis, label=_plain(heat.unit))
    if heat.weights:
        axis.invert_yaxis()
    for values, set_ticks in ((heat.x, axis.set_xticks), (heat.y, axis.set_yticks)):
        words = all(isinstance(value, str) for value in values)
        step = 1 if words and len(values) <= MOST_TICKS else max(1, len(values) // 10)
        labels = [_plain(value) if words else f"{value:.3g}" for value in values[::step]]
        turn = {"rotation": 90} if words and values is heat.x else {}
        set_ticks(np.arange(0, len(values), step) + 0.5, labels, fontsize=7, **turn)


def _plain(text: str) -> str:
    """A text without what matplotlib would read as mathematics."""
    return text.replace("$", r"\$")
