"""Charts as figures of Plotly, drawn in the page by the plotly.js that it holds."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from ...figures import COLORS
from .charts import Bars, Chart, Heat, Line, Numbers

DASHES = ("solid", "dash", "dashdot", "dot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
PATTERNS = ("", "/", "x", "-", "|", "+", ".")
GRID = {"gridcolor": "#ddd", "zerolinecolor": "#bbb", "linecolor": "#444", "automargin": True}
TICKS = 12
"""About as many ticks has an axis of integers."""
MARKERS = 40
"""Points up to which each is marked."""


def plotly_js() -> str:
    """The source of plotly.js.

    Raises:
        RuntimeError: Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise RuntimeError("the page needs plotly; pip install 'hf_semfocus[analysis]'") from None
    return get_plotlyjs()


def figure(chart: Chart) -> dict[str, Any]:
    """The figure of a chart: ``data`` and ``layout``. Plotly reads markup in texts, so all are escaped."""
    data = [trace for number, line in enumerate(chart.lines) for trace in _line(number, line)]
    data += [_bars(number, bars, chart.labels) for number, bars in enumerate(chart.bars)]
    x, y = ({"title": {"text": text(label)}, **GRID} for label in (chart.x_label, chart.y_label))
    if chart.log_y:
        y |= {"type": "log", "exponentformat": "power"}
    if chart.bars:
        x |= {"type": "category"}
    elif chart.lines and all(float(place).is_integer() for line in chart.lines for place in line.x):
        places = [place for line in chart.lines for place in line.x]
        x |= {"dtick": max(1, round((max(places) - min(places)) / TICKS))}
    if chart.heat is not None:
        data.append(_heat(chart.heat))
        y |= {"autorange": "reversed" if chart.heat.weights else True}
    layout = {
        "title": {"text": text(chart.title), "font": {"size": 14}, "x": 0.01, "xanchor": "left"},
        "xaxis": x,
        "yaxis": y,
        "legend": {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0},
        "margin": {"t": 40, "r": 10, "l": 60, "b": 50},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"size": 12, "color": "#222"},
        "barmode": "group",
        "showlegend": len(chart.lines) + len(chart.bars) > 1,
    }
    return {"data": data, "layout": layout}


def text(value: str) -> str:
    """A text that Plotly shows as it is."""
    return escape(value, quote=False)


def _line(number: int, line: Line) -> list[dict[str, Any]]:
    color, x, name = COLORS[number % len(COLORS)], _numbers(line.x), text(line.name)
    drawn = {
        "type": "scatter",
        "mode": "lines+markers" if len(x) <= MARKERS else "lines",
        "name": name,
        "x": x,
        "y": _numbers(line.y),
        "line": {"color": color, "dash": DASHES[number % len(DASHES)]},
        "marker": {"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 7},
    }
    if line.low is None or line.high is None:
        return [drawn]
    band = {
        "type": "scatter",
        "x": [*x, *reversed(x)],
        "y": [*_numbers(line.high), *reversed(_numbers(line.low))],
        "fill": "toself",
        "fillcolor": color,
        "opacity": 0.18,
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [band, drawn]


def _bars(number: int, bars: Bars, labels: list[str]) -> dict[str, Any]:
    color, shapes = COLORS[number % len(COLORS)], [PATTERNS[number % len(PATTERNS)]] * len(bars.values)
    if any(bars.open):
        shapes = ["/" if is_open else "" for is_open in bars.open]
    return {
        "type": "bar",
        "name": text(bars.name),
        "x": [text(label) for label in labels],
        "y": _numbers(bars.values),
        "text": [text(each) for each in bars.texts] or None,
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {
            "color": color,
            "line": {"color": "#222", "width": 1},
            "pattern": {"shape": shapes, "fgcolor": color, "bgcolor": "#fff", "size": 8, "solidity": 0.4},
        },
    }


def _heat(heat: Heat) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": [_numbers(row) for row in heat.values],
        "x": [text(each) if isinstance(each, str) else each for each in heat.x],
        "y": [text(each) if isinstance(each, str) else each for each in heat.y],
        "colorscale": "Cividis",
        **(dict(zip(("zmin", "zmax"), heat.limits, strict=True)) if heat.limits else {}),
        "colorbar": {"title": {"text": text(heat.unit), "side": "right"}},
        "hovertemplate": "%{x}, %{y}: %{z:.4g}<extra></extra>",
    }


def _numbers(values: Numbers) -> list[float | None]:
    """Numbers for JSON, which has no NaN and no infinity."""
    return [float(value) if np.isfinite(value) else None for value in values]
