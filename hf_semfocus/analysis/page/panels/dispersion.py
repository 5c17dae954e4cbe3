"""How far scores lie apart, layer by layer."""

from __future__ import annotations

from ...records import Record
from ..charts import Chart, Line
from ..sections import Section, panel
from ..study import Pair, Study

QUARTILES = (0.25, 0.5, 0.75)


@panel(60)
def dispersion(study: Study) -> Section | None:
    """Dispersion of all and of kept scores for every pair, and the separation of them all."""
    if not study.pairs:
        return None
    charts = [_dispersion(number, pair) for number, pair in enumerate(study.pairs)]
    lines = [
        line
        for side in study.sides
        if (line := _line(side.name, side.record, "separation")) is not None and min(line.low) > 0
    ]
    if lines:
        title = "Separation: lowest kept minus highest dropped score"
        charts.append(Chart("separation", title, "layer", "Delta_h (difference of scores)", lines, log_y=True))
    words = [
        "Median over heads and queries; the band is from the first to the third quartile. Dispersion is the highest "
        "minus the lowest score of a query's keys (before softmax, no unit). A sparse attention that keeps other keys "
        "than those of the highest scores has a negative separation, and is left out there."
    ]
    return Section("Dispersion and separation by layer", words, charts)


def _dispersion(number: int, pair: Pair) -> Chart:
    found = [
        _line(f"{pair.dense.attention}: delta_s, all keys", pair.dense.record, "dispersion"),
        _line(f"{pair.sparse.attention}: delta_s, all keys", pair.sparse.record, "dispersion"),
        _line(f"{pair.sparse.attention}: delta_h, kept keys", pair.sparse.record, "kept_dispersion"),
    ]
    lines = [line for line in found if line is not None]
    return Chart(f"dispersion_{number}", pair.name, "layer", "dispersion (difference of scores)", lines)


def _line(name: str, record: Record, quantity: str) -> Line | None:
    """Quartiles by layer; None where no layer has the quantity."""
    held = {layer: record.pooled(quantity, layer) for layer in range(len(record.layers))}
    layers = [layer for layer, sketch in held.items() if sketch.count]
    if not layers:
        return None
    low, median, high = zip(*(held[layer].quantiles(QUARTILES) for layer in layers), strict=True)
    return Line(name, layers, median, low, high)
