"""How long runs take to the target; those that never reach it are shown as such."""

from __future__ import annotations

from ...runs import common_units, find_runs
from ...times import Quantile, TimeToTarget, times_to_target
from ..charts import Bars, Chart
from ..sections import Section, panel
from ..study import Course, Study

UNITS = {"epoch": "epochs", "step": "steps", "seconds": "seconds of training steps"}


@panel(30)
def time_to_target(study: Study) -> Section | None:
    """Bars of medians by Kaplan and Meier, in every unit that all runs of a course are counted in."""
    charts = [
        _chart(number, course, unit)
        for number, course in enumerate(study.courses)
        if course.target is not None
        for unit in common_units(find_runs(course.records, course.target))
    ]
    words = [
        "Median over seeds by Kaplan and Meier. A hatched bar is a median that was not reached: it is more than the "
        "bar, which is as long as the runs were watched."
    ]
    return Section("Time to the target", words, charts) if charts else None


def _chart(number: int, course: Course, unit: str) -> Chart:
    found = times_to_target(find_runs(course.records, course.target), unit)
    bars = Bars(
        UNITS[unit],
        [each.median.value for each in found],
        [f"{_shown(each.median)} ({each.reached} of {each.runs} runs)" for each in found],
        [not each.median.reached for each in found],
    )
    title = f"{course.name}: {UNITS[unit]} until {course.target.field} {course.target.value:g}"
    labels = [_name(each) for each in found]
    return Chart(f"time_{number}_{unit}", title, "attention", UNITS[unit], bars=[bars], labels=labels)


def _shown(median: Quantile) -> str:
    exact = median.value == round(median.value) or median.value >= 1000
    value = f"{median.value:,.0f}" if exact else f"{median.value:,.1f}"
    return value if median.reached else f"more than {value}"


def _name(each: TimeToTarget) -> str:
    return f"{each.task}, {each.attention}" if each.task else each.attention
