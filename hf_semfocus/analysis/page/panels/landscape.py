"""The loss around the weights of each model, and how steep it is."""

from __future__ import annotations

import numpy as np

from ...landscapes import Landscape
from ...slopes import lipschitz
from ..charts import Chart, Heat, Line
from ..sections import Section, panel
from ..study import Side, Study

PERCENTILES = (50, 95)
SMALLEST = 1e-6
"""Loss below which all have one color."""


@panel(70)
def landscape(study: Study) -> Section | None:
    """A map of the loss of every model that has one, and their slopes."""
    sides = [side for side in study.sides if side.landscape is not None]
    if not sides:
        return None
    losses = [_logarithm(side.landscape) for side in sides]
    limits = min(float(np.nanmin(loss)) for loss in losses), max(float(np.nanmax(loss)) for loss in losses)
    charts = [_map(number, side, limits) for number, side in enumerate(sides)]
    lines = [line for side in sides for line in _slopes(side.name, side.landscape)]
    title = "Difference of neighboring losses over their distance"
    charts.append(Chart("lipschitz", title, "radius t: |x|, |y| <= t", "nats / ||Theta - Theta'||", lines, log_y=True))
    settings = sides[0].landscape.settings
    words = [
        f"Loss at the weights moved by x d1 + y d2, two random directions as long as the weights (per tensor), on "
        f"{settings['points']} x {settings['points']} places and {settings['rows']} rows. Slopes are the "
        f"{' and '.join(f'{each}th' for each in PERCENTILES)} percentile between neighboring places within a radius."
    ]
    return Section("Loss landscape", words, charts)


def _logarithm(held: Landscape) -> np.ndarray:
    """Of the loss, a line for every y; NaN where it is not finite."""
    return np.log10(np.maximum(np.where(np.isfinite(held.loss), held.loss, np.nan), SMALLEST)).T


def _map(number: int, side: Side, limits: tuple[float, float]) -> Chart:
    axis = side.landscape.axis.tolist()
    heat = Heat(_logarithm(side.landscape), axis, axis, "log10 of the loss (nats)", limits)
    return Chart(f"landscape_{number}", side.name, "x, along d1 (lengths of the weights)", "y, along d2", heat=heat)


def _slopes(name: str, held: Landscape) -> list[Line]:
    radii = held.axis[held.axis > 0]
    rows = [row for row in lipschitz(held, radii, PERCENTILES) if row["denominator"] == "parameters"]
    made = []
    for percentile in PERCENTILES:
        points = [(row["radius"], row["value"]) for row in rows if row["percentile"] == percentile]
        if points:
            made.append(Line(f"{name}, {percentile}%", *zip(*points, strict=True)))
    return made
