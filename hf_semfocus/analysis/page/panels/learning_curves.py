"""How runs learn: median over seeds and quartiles, for every attention of a comparison."""

from __future__ import annotations

from ...runs import bands
from ..charts import Chart, Line
from ..sections import Section, panel
from ..study import Study

FIELDS = {
    "train_accuracy": "training accuracy (share)",
    "eval_accuracy": "held-out accuracy (share)",
    "eval_loss": "held-out loss (nats)",
}
"""Of the records, with their units."""


@panel(20)
def learning_curves(study: Study) -> Section | None:
    """A chart for every field that a course has."""
    charts = [
        _chart(number, course.name, course.records, field)
        for number, course in enumerate(study.courses)
        for field in FIELDS
    ]
    charts = [chart for chart in charts if chart.lines]
    words = ["Median over seeds; the band is from the first to the third quartile. A run that ended keeps its value."]
    return Section("Learning curves", words, charts) if charts else None


def _chart(number: int, name: str, records: list, field: str) -> Chart:
    lines = [
        Line(attention, held["x"], held["median"], held["low"], held["high"])
        for (_, attention), held in bands(records, "epoch", field).items()
    ]
    return Chart(f"learning_{number}_{field}", f"{name}: {field}", "epochs", FIELDS[field], lines)
