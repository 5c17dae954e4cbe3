"""The paper's conditions for a dense and a sparse model, from captured records, and the paper's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..messages import check_integer
from ..tables import markdown_table
from .claims import FLOOR, lambda_w, lambda_x
from .proven import softmax_constant, topk_constant

TABLE_QUANTILES = (0.75, 0.9, 0.95, 1.0)
"""Quantiles of the paper's table; for the separation, whose small values are the bad ones, 1 minus these."""
SYMBOLS = {"delta_s": "dispersion", "delta_h": "kept_dispersion", "separation": "separation", "beta": "in_degree"}
"""The paper's symbols and their quantities in a record."""


@dataclass(frozen=True)
class Condition:
    """Both conditions at one quantile, of a layer or of all layers together.

    Attributes:
        layer: its number; None for all layers together.
        quantile: of ``delta_s``, ``delta_h`` and ``beta``; ``separation`` is at 1 - quantile.
        delta_s, delta_h, separation, beta: as measured.
        k: keys that a query keeps.
        lambda_w, lambda_x: left sides.
    """

    layer: int | None
    quantile: float
    delta_s: float
    delta_h: float
    separation: float
    beta: float
    k: int
    lambda_w: float = field(init=False)
    lambda_x: float = field(init=False)

    def __post_init__(self):
        check_integer("k", self.k, 1)
        measured = (self.delta_s, self.delta_h, self.separation)
        object.__setattr__(self, "lambda_w", float(lambda_w(*measured)))
        object.__setattr__(self, "lambda_x", float(lambda_x(*measured, self.beta / self.k)))

    @property
    def holds_w(self) -> bool:
        """Whether the condition on parameters holds."""
        return self.lambda_w < 1

    @property
    def holds_x(self) -> bool:
        """Whether the condition on inputs holds."""
        return self.lambda_x < 1


def conditions(dense: Any, sparse: Any, k: int, quantiles: Sequence[float] = TABLE_QUANTILES) -> list[Condition]:
    """Both conditions of a dense and a sparse model, at every quantile, over all layers and layer by layer.

    A column combines quantiles of different distributions, as the paper does; it says nothing about any single query.

    Args:
        dense, sparse: a captured record each, or its rows: mappings with ``layer``, ``head``,
            ``quantity``, ``quantile`` and ``value``. Rows of single heads are left out; a layer of None stands for
            all layers.
        k: keys that a query of the sparse model keeps.
        quantiles: in [0, 1].

    Returns:
        The conditions over all layers, then those of the first layer, and so on.

    Raises:
        ValueError: a quantity that is needed was not captured, the sparse model is not top-k, or k is below 1.
    """
    found = {"delta_s": _values(dense), **dict.fromkeys(("delta_h", "separation", "beta"), _values(sparse))}
    layers = {layer for values in found.values() for layer, *_ in values}
    made = []
    for layer in sorted(layers, key=lambda layer: -1 if layer is None else layer):
        for quantile in quantiles:
            measured = {}
            for symbol, values in found.items():
                at = 1 - quantile if symbol == "separation" else quantile
                key = (layer, SYMBOLS[symbol], round(at, 9))
                if key not in values:
                    whose = "dense" if symbol == "delta_s" else "sparse"
                    where = "all layers" if layer is None else f"layer {layer}"
                    raise ValueError(
                        f"the {whose} record has no quantile {at:g} of {SYMBOLS[symbol]!r} over {where}; expected "
                        "one for every layer of either record"
                    )
                measured[symbol] = values[key]
            if measured["separation"] < 0:
                raise ValueError(
                    f"separation={measured['separation']:g}: the sparse model keeps other keys than those of the "
                    "highest scores; the conditions are about top-k"
                )
            made.append(Condition(layer=layer, quantile=quantile, k=k, **measured))
    return made


def _values(record: Any) -> dict[tuple[int | None, str, float], float]:
    """Values of the needed quantities by layer, quantity and quantile, heads together."""
    rows: Iterable[Mapping[str, Any]] = record.rows() if hasattr(record, "rows") else record
    wanted = set(SYMBOLS.values())
    return {
        (row["layer"], row["quantity"], round(row["quantile"], 9)): float(row["value"])
        for row in rows
        if row["head"] is None and row["quantity"] in wanted
    }


def table(cases: Mapping[str, Sequence[Condition]]) -> str:
    """Markdown table in the layout of the paper's, with a line per model and where each condition holds.

    Args:
        cases: conditions at several quantiles by name; those of single layers give lines of their own.
    """
    symbols = ("delta_s", "delta_h", "separation", "beta", "lambda_w", "lambda_x")
    rows = [["", "quantiles", "delta_s", "delta_h", "Delta_h", "beta", "lambda_W", "lambda_X", "W holds", "X holds"]]
    for name, found in cases.items():
        for layer in dict.fromkeys(condition.layer for condition in found):
            line = [condition for condition in found if condition.layer == layer]
            cells = [" ".join(_shown(symbol, getattr(each, symbol)) for each in line) for symbol in symbols]
            rows.append(
                [*_heads(name, layer, line), *cells, where_holds(line, "holds_w"), where_holds(line, "holds_x")]
            )
    return markdown_table(rows)


def proven_table(cases: Mapping[str, Sequence[Condition]], keys: int) -> str:
    """Markdown table of the proven constants, to compare with :func:`table`.

    They are Lipschitz constants over all scores of that dispersion and separation, so those at the largest quantile
    hold for all measured queries that see ``keys`` keys. The constant of softmax is larger for those that see fewer,
    as the first ones of a causal model do, and 1/2 at most.

    Args:
        cases: as for :func:`table`.
        keys: the most keys that a query of the dense model sees.
    """
    rows = [["", "quantiles", "softmax over all keys", "over kept keys", "top-k"]]
    for name, found in cases.items():
        for layer in dict.fromkeys(condition.layer for condition in found):
            line = [condition for condition in found if condition.layer == layer]
            constants = (
                [softmax_constant(each.delta_s, keys) for each in line],
                [softmax_constant(each.delta_h, each.k) for each in line],
                [topk_constant(each.delta_h, max(each.separation, FLOOR), each.k) for each in line],
            )
            cells = [" ".join(f"{constant:.3g}" for constant in column) for column in constants]
            rows.append([*_heads(name, layer, line), *cells])
    return markdown_table(rows)


def _heads(name: str, layer: int | None, line: Sequence[Condition]) -> tuple[str, str]:
    title = name if layer is None else f"{name}, layer {layer}"
    return title, " ".join(f"{100 * condition.quantile:g}%" for condition in line)


def _shown(symbol: str, value: float) -> str:
    return f"{value:.3f}" if symbol.startswith("lambda") else f"{value:.3g}"


def where_holds(line: Sequence[Condition], holds: str) -> str:
    """Where a condition holds, in words."""
    at = [f"{100 * condition.quantile:g}%" for condition in line if getattr(condition, holds)]
    return "nowhere" if not at else "everywhere" if len(at) == len(line) else f"at {', '.join(at)}"
