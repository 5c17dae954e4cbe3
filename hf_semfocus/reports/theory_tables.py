"""What the theory speaks of, as measured on the models of a grid, beside the table of the paper's code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from ..analysis.compared import SYMBOLS, TABLE_QUANTILES, Condition, conditions
from ..tables import markdown_table
from .comparisons import BASELINE, FOCUS
from .evidence import Evidence, Planned

Line = Mapping[str, Any]
REFERENCE = {
    "parity": ((8.30, 10.1, 11.2, 19.4), (2.31, 3.13, 3.78, 9.16), (0.062, 0.022, 0.011, 1e-6), (8, 13, 16, 33)),
    "even_pairs": ((2.03, 4.73, 9.44, 14.6), (1.03, 2.84, 5.50, 8.25), (0.009, 0.003, 0.002, 3e-8), (6, 17, 26, 40)),
    "missing_duplicates": (
        *((4.63, 9.25, 17.1, 23.9), (2.36, 4.25, 4.88, 10.5)),
        *((0.018, 0.006, 0.003, 1e-7), (7, 15, 21, 40)),
    ),
}
"""By task, with the paper's hyperparameters: delta_s, delta_h, Delta_h and beta of top-5 models, at
``TABLE_QUANTILES``, in the table of the paper's code."""
REFERENCE_K = 5
HEADER = ["attention", "models", *("delta_s", "delta_h", "Delta_h", "beta", "lambda_W", "lambda_X")]
HEADER += ["W holds", "X holds", "receptive field", "pairs that meet"]
AT = ", ".join(f"{100 * level:g}" for level in TABLE_QUANTILES) + "%"
ABOUT = f"""\
The theory's quantities and conditions (arXiv 2506.14095) are those of the best models on training rows without
dropout: medians over models of the {AT} quantiles over layers and queries, of Delta_h of 1 minus these. A condition
holds where its lambda is below 1; each top-k model is set beside the full attention of its seed, and has no condition
where it drops no key. A receptive field is the share of inputs that reach a token through the weights of all layers,
and two inputs meet where both reach one token. The classifier adds up functions of single tokens. So under a pattern
that does not look at the input, it cannot compute the exclusive or of two inputs that never meet; where content
decides, inputs also act through the choice of keys."""


def theory(evidence: Evidence, planned: Sequence[Planned]) -> list[str]:
    """A table for a setting, with its title; nothing where no model was measured."""
    lines = {line["point"]: line for line in evidence.quantities}
    measured = {(run.attention, run.seed): lines[run.name] for run in planned if run.name in lines}
    if not measured:
        return []
    rows = [HEADER]
    for attention in dict.fromkeys(run.attention for run in planned):
        own = {seed: line for (name, seed), line in measured.items() if name == attention}
        dense = {seed: line for (name, seed), line in measured.items() if name == BASELINE}
        if own:
            rows.append(_row(attention, own, dense))
    if (found := REFERENCE.get(planned[0].setting)) is not None:
        stated = [Condition(None, *each, k=REFERENCE_K) for each in zip(TABLE_QUANTILES, *found, strict=True)]
        rows.append([f"{FOCUS}:k={REFERENCE_K}, paper's code", "-", *_stated([stated]), "-", "-"])
    counts = " or ".join(map(str, sorted({line["rows"] for line in measured.values()})))
    return [f"The theory's quantities, on {counts} training rows:", markdown_table(rows)]


def _row(attention: str, own: Mapping[int, Line], dense: Mapping[int, Line]) -> list[str]:
    """Cells of an attention, of its lines by seed and those of full attention."""
    if attention.startswith(FOCUS):
        paired = {seed: own[seed] for seed in sorted(own.keys() & dense.keys()) if _finite(own[seed], dense[seed])}
        if paired:
            pairs = [conditions(_quantiles(dense[seed]), _quantiles(own[seed]), own[seed]["k"]) for seed in paired]
            return [attention, str(len(paired)), *_stated(pairs), *_shares(paired)]
    cells = []
    for symbol, quantity in SYMBOLS.items():
        told = symbol == "delta_s" if attention == BASELINE else symbol in ("delta_h", "beta")
        values = [[line[quantity][str(level)] for level in TABLE_QUANTILES] for line in own.values()] if told else []
        cells.append(_medians(values) if values and all(None not in each for each in values) else "-")
    return [attention, str(len(own)), *cells, *["-"] * 4, *_shares(own)]


def _shares(lines: Mapping[int, Line]) -> list[str]:
    """Medians of the shares of inputs that reach a token, and of pairs that meet."""
    return [f"{median(line[name] for line in lines.values()):.3f}" for name in ("receptive_field", "meeting")]


def _finite(*lines: Line) -> bool:
    """Whether all quantities are numbers: without dropped keys there is no separation, and so no condition."""
    return all(each["value"] is not None for line in lines for each in _quantiles(line))


def _stated(pairs: Sequence[Sequence[Condition]]) -> list[str]:
    """Medians of what conditions say, and of how many pairs each holds."""
    symbols = (*SYMBOLS, "lambda_w", "lambda_x")
    cells = [_medians([[getattr(each, symbol) for each in found] for found in pairs]) for symbol in symbols]
    for name in ("holds_w", "holds_x"):
        counts = [sum(each) for each in zip(*([getattr(one, name) for one in found] for found in pairs), strict=True)]
        cells.append(f"{' '.join(map(str, counts))} of {len(pairs)}")
    return cells


def _medians(values: Iterable[Sequence[float]]) -> str:
    """The median at every quantile."""
    return " ".join(f"{median(each):.3g}" for each in zip(*values, strict=True))


def _quantiles(line: Line) -> list[dict[str, Any]]:
    """A line of a measured model as rows of a record, over all layers and heads."""
    return [
        {"layer": None, "head": None, "quantity": quantity, "quantile": float(level), "value": value}
        for quantity in SYMBOLS.values()
        for level, value in line.get(quantity, {}).items()
    ]
