"""What a picture shows; :mod:`.interactive` draws it for a page, :mod:`.still` for a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Line:
    """A curve, with a band around it if there is ``low`` and ``high``."""

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None


@dataclass(frozen=True)
class Bars:
    """A group of bars, one for each label of the chart.

    Attributes:
        name: in the legend.
        values: heights; NaN for no bar.
        texts: written above the bars.
        open: bars that are hatched, because the true height is above that shown.
    """

    name: str
    values: Numbers
    texts: Sequence[str] = ()
    open: Sequence[bool] = ()


@dataclass(frozen=True)
class Heat:
    """A matrix ``values[i, j]`` as colors, at column ``x[j]`` and line ``y[i]``: numbers or words.

    Attributes:
        unit: of the values.
        limits: values of the first and the last color; those of the matrix by default.
        weights: whether they are attention weights: the first line is on top, and colors go with square roots.
    """

    values: np.ndarray
    x: Sequence[float] | Sequence[str]
    y: Sequence[float] | Sequence[str]
    unit: str
    limits: tuple[float, float] | None = None
    weights: bool = False


@dataclass(frozen=True)
class Chart:
    """A picture with one kind of content.

    Attributes:
        name: of its files.
        title: above it.
        x_label, y_label: of the axes, with units.
        lines, bars, heat: what it shows.
        labels: of the groups of bars.
        log_y: whether the y axis is logarithmic.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line] = ()
    bars: Sequence[Bars] = ()
    labels: Sequence[str] = ()
    heat: Heat | None = None
    log_y: bool = False

    def table(self) -> list[list[str]]:
        """Its numbers, the header first, for who cannot see it; empty for a matrix."""
        if self.bars:
            rows = [[label, *(_cell(each, at) for each in self.bars)] for at, label in enumerate(self.labels)]
            return [[self.x_label, *(each.name for each in self.bars)], *rows]
        head = ["", self.x_label, self.y_label, "first quartile", "third quartile"]
        rows = [
            [line.name, *(_shown(values, at) for values in (line.x, line.y, line.low, line.high))]
            for line in self.lines
            for at in range(len(line.x))
        ]
        return [head, *rows] if rows else []


def _cell(bars: Bars, at: int) -> str:
    return bars.texts[at] if bars.texts else _shown(bars.values, at)


def _shown(values: Numbers | None, at: int) -> str:
    return "" if values is None else f"{values[at]:.4g}"
