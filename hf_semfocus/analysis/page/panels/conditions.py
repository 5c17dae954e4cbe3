"""The paper's conditions, and the constants that are proven."""

from __future__ import annotations

from collections.abc import Sequence

from ...claims import FLOOR
from ...compared import Condition
from ...proven import softmax_constant, topk_constant
from ..sections import Section, panel
from ..study import Pair, Study

HEADER = (
    *("models", "layer", "quantile", "delta_s", "delta_h", "Delta_h", "beta"),
    *("lambda_W", "W holds", "lambda_X", "X holds"),
    *("proven: softmax, all keys", "proven: softmax, kept keys", "proven: top-k"),
)


@panel(10)
def conditions(study: Study) -> Section | None:
    """What holds of every pair over all layers, and layer by layer on demand."""
    if not study.pairs:
        return None
    stated = [pair for pair in study.pairs if pair.conditions]
    unstated = [pair for pair in study.pairs if not pair.conditions]
    words = [
        "The paper's claims: a condition holds where its left side, lambda_W (on parameters) or lambda_X (on inputs), "
        "is below 1. They compare upper bounds, at quantiles of different distributions (the separation Delta_h at 1 "
        "minus the quantile), and say nothing of a single query.",
        "Beside them, constants that are proven: Lipschitz constants from l1 to l1 (sum of changes of weights over "
        "that of scores) over all scores of that dispersion. Softmax has 1/2 at most; top-k has more where its "
        "separation is small, as it jumps where the kept keys change.",
        *(f"{pair.name}: the conditions cannot be stated: {pair.judged[1]}." for pair in unstated),
    ]
    if not stated:
        return Section("Conditions", words)
    layers = [("Layer by layer", table(stated, layers=True))]
    return Section("Conditions", words, tables=[table(stated)], folded=layers)


def table(pairs: Sequence[Pair], layers: bool = False) -> list[list[str]]:
    """Cells with a line per pair and quantile, over all layers or for each."""
    lines = [_line(pair, each) for pair in pairs for each in pair.judged[0] if (each.layer is not None) == layers]
    return [list(HEADER), *lines]


def _line(pair: Pair, found: Condition) -> list[str]:
    measured = (found.delta_s, found.delta_h, found.separation, found.beta)
    proven = (
        softmax_constant(found.delta_s, pair.keys),
        softmax_constant(found.delta_h, found.k),
        topk_constant(found.delta_h, max(found.separation, FLOOR), found.k),
    )
    return [
        *(pair.name, "all" if found.layer is None else str(found.layer), f"{100 * found.quantile:g}%"),
        *(f"{value:.3g}" for value in measured),
        *(f"{found.lambda_w:.3f}", _yes(found.holds_w), f"{found.lambda_x:.3f}", _yes(found.holds_x)),
        *(f"{value:.3g}" for value in proven),
    ]


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
