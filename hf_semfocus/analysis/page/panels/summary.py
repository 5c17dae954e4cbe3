"""What was found, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ...claims import FLOOR
from ...compared import Condition, where_holds
from ...landscapes import Landscape
from ...proven import softmax_constant, topk_constant
from ...runs import find_runs
from ...slopes import lipschitz
from ...times import times_to_target
from ..sections import Section, panel
from ..study import Course, Pair, Study


@panel(0)
def summary(study: Study) -> Section:
    """A paragraph for every pair, and one for every course."""
    return Section("In words", [*map(of_pair, study.pairs), *filter(None, map(of_course, study.courses))])


def of_pair(pair: Pair) -> str:
    """What was measured of a pair, whether the conditions hold, and what is proven."""
    start = f"{pair.name} ({pair.rows} {pair.source}, at most {pair.keys} tokens each). {_spread(pair)}"
    if pair.swapped:
        start += " The attention was swapped without training, so this is what top scores of a dense model look like."
    if not pair.conditions:
        return f"{start} The paper's conditions cannot be stated: {pair.judged[1]}."
    claims = " ".join(
        _claim(what, where_holds(pair.conditions, holds)) for what, holds in (("W", "holds_w"), ("X", "holds_x"))
    )
    return f"{start} {claims} {_proven(pair, pair.conditions)}{_slopes(pair)}"


def of_course(course: Course) -> str:
    """When the runs of a comparison reached their target; empty if they had none."""
    if course.target is None:
        return ""
    found = times_to_target(find_runs(course.records, course.target))
    parts = [f"{each.attention} after {each.median} epochs ({each.reached} of {each.runs} runs)" for each in found]
    seeds = max(each.runs for each in found)
    few = " One seed says little: another may order them otherwise." if seeds == 1 else ""
    target = f"{course.target.field} {course.target.value:g}"
    return f"{course.name}. Median time until {target}: {'; '.join(parts)}.{few}"


def _spread(pair: Pair) -> str:
    dense = pair.dense.record.pooled("dispersion").quantiles([0.5])[0]
    kept = pair.sparse.record.pooled("kept_dispersion")
    text = f"With {pair.dense.attention}, the scores of a query are {dense:.3g} apart (median)"
    if kept.count:
        text += f"; the keys that {pair.sparse.attention} keeps are {kept.quantiles([0.5])[0]:.3g} apart"
    mass = pair.sparse.record.pooled("kept_mass")
    if mass.count:
        text += f" and would have {mass.quantiles([0.5])[0]:.0%} of the mass of a dense softmax"
    return f"{text}."


def _slopes(pair: Pair) -> str:
    """How steep the loss of both is, if their landscapes are there."""
    if pair.dense.landscape is None or pair.sparse.landscape is None:
        return ""
    dense, sparse = map(_slope, (pair.dense.landscape, pair.sparse.landscape))
    radius = pair.dense.landscape.axis[-1]
    return (
        f" Around the weights, within radius {radius:g}, 95% of the slopes of the loss are below "
        f"{dense:.3g} nats per unit of distance with {pair.dense.attention}, and below {sparse:.3g} "
        f"with {pair.sparse.attention}."
    )


def _slope(held: Landscape) -> float:
    """The 95th percentile of slopes between all neighboring places."""
    rows = lipschitz(held, radii=[held.axis[-1]], percentiles=[95])
    return next(row["value"] for row in rows if row["denominator"] == "parameters")


def _claim(what: str, where: str) -> str:
    about = {"W": "parameters", "X": "inputs"}[what]
    if where == "nowhere":
        return f"The paper's condition on {about} (lambda_{what} < 1) does not hold here, at no quantile."
    if where == "everywhere":
        return f"The paper's condition on {about} (lambda_{what} < 1) holds at every quantile of the table."
    return f"The paper's condition on {about} (lambda_{what} < 1) holds only {where}."


def _proven(pair: Pair, found: Sequence[Condition]) -> str:
    worst = max(found, key=lambda each: each.quantile)
    dense = softmax_constant(worst.delta_s, pair.keys)
    sparse = topk_constant(worst.delta_h, max(worst.separation, FLOOR), pair.k)
    what = "less than" if sparse < dense else "as much as" if sparse == dense else "more than"
    return (
        f"What is proven: over scores as far apart as the widest measured, a softmax over {pair.keys} keys changes by "
        f"at most {dense:.3g} times the change of its scores (l1; 1/2 where a query sees few keys), and top-k by "
        f"{sparse:.3g} times, {what} that" + ("." if sparse < dense else ": this shows no benefit of top-k here.")
    )
