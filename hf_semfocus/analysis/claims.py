"""The paper's conditions (arXiv 2506.14095) under which focus improves its guarantees, from measured quantities.

The paper bounds how far attention moves with its parameters (lambda_W) and with its inputs (lambda_X), for full
attention and for top-k. Top-k has the smaller bound where the logarithm of the quotient of the two, divided by
delta_s, is below 0; the *left side* of a condition is that number plus 1. So a condition compares two upper bounds as
the paper states them; that a bound is smaller does not say that what it bounds is. :mod:`.proven` has the constants
that are proven here, and says where the paper's bounds are loose.

* delta_s: dispersion (highest minus lowest score) over all keys, in the dense model;
* delta_h: dispersion over the kept keys, in the sparse model;
* Delta_h, ``separation``: lowest kept minus highest dropped score;
* beta, in-degree: queries that keep a key; ``sink_ratio`` is beta / k.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..messages import check_integer
from ..tables import markdown_table

FLOOR = 1e-9
"""What dispersions and separations are taken for where they are smaller, as in the paper's table."""
COLUMNS = (0.75, 0.9, 0.95, 1.0)
"""Quantiles of the paper's table; of the separation, where small values are the bad ones, it is 1 minus these."""
QUANTITIES = {"delta_s": "dispersion", "delta_h": "kept_dispersion", "separation": "separation", "beta": "in_degree"}
"""Symbols, and the quantity of a record that each is."""


def lambda_w(delta_s: ArrayLike, delta_h: ArrayLike, separation: ArrayLike) -> float | NDArray[np.float64]:
    """Left side of the paper's condition on parameters; it claims a better guarantee for top-k where this is below 1.

    The bounds are ``L Upsilon Xi^3 e^delta_s`` for full attention and ``2 L Upsilon Xi^3 e^delta_h (1 + 1/Delta_h)``
    for top-k, hence ``delta_h / delta_s + ln(2 (1 + 1/Delta_h)) / delta_s``, which never leaves logarithms.

    Args:
        delta_s, delta_h, separation: numbers or arrays that broadcast; below 1e-9 they count as 1e-9.

    Returns:
        float64, of the common shape.

    Raises:
        ValueError: a number that is negative or NaN.
    """
    delta_s, delta_h, separation = _floored(delta_s=delta_s, delta_h=delta_h, separation=separation)
    return (delta_h + np.log(2) + np.log1p(1 / separation)) / delta_s


def lambda_x(
    delta_s: ArrayLike, delta_h: ArrayLike, separation: ArrayLike, sink_ratio: ArrayLike
) -> float | NDArray[np.float64]:
    """Left side of the paper's condition on inputs; it claims a better guarantee for top-k where this is below 1.

    The bounds are ``Upsilon e^delta_s (1 + 2 Gamma Xi^2)`` for full attention and ``Upsilon e^delta_h (beta' +
    2 Gamma Xi^2 (1 + beta') (1 + 1/Delta_h))`` for top-k, of which the paper assumes ``2 Gamma Xi^2 = delta_s``.

    Args:
        delta_s, delta_h, separation: as for :func:`lambda_w`.
        sink_ratio: beta' = beta / k.

    Returns:
        float64, of the common shape.

    Raises:
        ValueError: a number that is negative or NaN.
    """
    delta_s, delta_h, separation = _floored(delta_s=delta_s, delta_h=delta_h, separation=separation)
    (sink_ratio,) = _floored(sink_ratio=sink_ratio)
    changed = np.log(delta_s) + np.log1p(sink_ratio) + np.log1p(1 / separation)
    return (delta_h + np.logaddexp(changed, np.log(sink_ratio)) - np.log1p(delta_s)) / delta_s


def smallest_c2_w(c1: ArrayLike, delta_s: ArrayLike) -> float | NDArray[np.float64]:
    """The c2 = Delta_h / delta_s above which :func:`lambda_w` is below 1; infinite where no c2 is enough.

    Args:
        c1: delta_h / delta_s.
        delta_s: dispersion over all keys.
    """
    delta_s = np.asarray(delta_s, dtype=np.float64)
    return _smallest(delta_s * (1 - np.asarray(c1, dtype=np.float64)) - np.log(2), delta_s)


def smallest_c2_x(c1: ArrayLike, delta_s: ArrayLike, sink_ratio: ArrayLike) -> float | NDArray[np.float64]:
    """The c2 = Delta_h / delta_s above which :func:`lambda_x` is below 1; infinite where no c2 is enough.

    Args:
        c1: delta_h / delta_s.
        delta_s: dispersion over all keys.
        sink_ratio: beta' = beta / k.
    """
    delta_s, sink_ratio = np.asarray(delta_s, dtype=np.float64), np.asarray(sink_ratio, dtype=np.float64)
    room = delta_s * (1 - np.asarray(c1, dtype=np.float64)) + np.log1p(delta_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        # e^room > beta' + delta_s (1 + beta') (1 + 1/(delta_s c2))
        rest = room + np.log1p(-np.exp(np.log(sink_ratio) - room)) - np.log(delta_s) - np.log1p(sink_ratio)
    return _smallest(np.where(np.isnan(rest), -np.inf, rest), delta_s)


def _smallest(exponent: NDArray[np.float64], delta_s: NDArray[np.float64]) -> float | NDArray[np.float64]:
    """c2 of ``1 + 1/(delta_s c2) = e^exponent``."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        c2 = np.exp(-exponent - np.log(-np.expm1(-exponent))) / delta_s
    return np.where(exponent > 0, c2, np.inf)[()]


def _floored(**values: ArrayLike) -> list[NDArray[np.float64]]:
    for name, value in values.items():
        if not np.all(np.asarray(value, dtype=np.float64) >= 0):
            raise ValueError(f"{name}={value!r}; expected numbers of at least 0")
    return [np.maximum(np.asarray(value, dtype=np.float64), FLOOR)[()] for value in values.values()]


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


def conditions(dense: Any, sparse: Any, k: int, quantiles: Sequence[float] = COLUMNS) -> list[Condition]:
    """Both conditions of a dense and a sparse model, at every quantile, over all layers and layer by layer.

    A column sets quantiles of different distributions beside each other, as the paper does: it is no statement about
    any single query.

    Args:
        dense, sparse: what was captured of them: a record, or its rows, mappings with ``layer``, ``head``,
            ``quantity``, ``quantile`` and ``value``. Rows of single heads are left out; a layer of None stands for
            all layers.
        k: keys that a query of the sparse model keeps.
        quantiles: in [0, 1].

    Returns:
        First those over all layers, then those of the first layer, and so on.

    Raises:
        ValueError: a quantity that is needed was not captured, or k is below 1.
    """
    found = {"delta_s": _values(dense), **dict.fromkeys(("delta_h", "separation", "beta"), _values(sparse))}
    layers = {layer for values in found.values() for layer, *_ in values}
    made = []
    for layer in sorted(layers, key=lambda layer: -1 if layer is None else layer):
        for quantile in quantiles:
            measured = {}
            for symbol, values in found.items():
                at = 1 - quantile if symbol == "separation" else quantile
                key = (layer, QUANTITIES[symbol], round(at, 9))
                if key not in values:
                    whose = "dense" if symbol == "delta_s" else "sparse"
                    where = "all layers" if layer is None else f"layer {layer}"
                    raise ValueError(
                        f"the {whose} record has no quantile {at:g} of {QUANTITIES[symbol]!r} over {where}; expected "
                        "one for every layer of either record"
                    )
                measured[symbol] = values[key]
            made.append(Condition(layer=layer, quantile=quantile, k=k, **measured))
    return made


def _values(record: Any) -> dict[tuple[int | None, str, float], float]:
    """Values of the needed quantities by layer, quantity and quantile, heads together."""
    rows: Iterable[Mapping[str, Any]] = record.rows() if hasattr(record, "rows") else record
    wanted = set(QUANTITIES.values())
    return {
        (row["layer"], row["quantity"], round(row["quantile"], 9)): float(row["value"])
        for row in rows
        if row["head"] is None and row["quantity"] in wanted
    }


def table(cases: Mapping[str, Sequence[Condition]]) -> str:
    """Markdown table in the layout of the paper's, with a line per model and a word on what holds.

    Args:
        cases: conditions at several quantiles by name; those of single layers give lines of their own.
    """
    symbols = ("delta_s", "delta_h", "separation", "beta", "lambda_w", "lambda_x")
    rows = [["", "quantiles", "delta_s", "delta_h", "Delta_h", "beta", "lambda_W", "lambda_X", "W holds", "X holds"]]
    for name, found in cases.items():
        for layer in dict.fromkeys(condition.layer for condition in found):
            line = [condition for condition in found if condition.layer == layer]
            cells = [" ".join(_shown(symbol, getattr(each, symbol)) for each in line) for symbol in symbols]
            title = name if layer is None else f"{name}, layer {layer}"
            quantiles = " ".join(f"{100 * each.quantile:g}%" for each in line)
            rows.append([title, quantiles, *cells, _where(line, "holds_w"), _where(line, "holds_x")])
    return markdown_table(rows)


def _shown(symbol: str, value: float) -> str:
    return f"{value:.3f}" if symbol.startswith("lambda") else f"{value:.3g}"


def _where(line: Sequence[Condition], holds: str) -> str:
    """Where a condition holds, in words."""
    at = [f"{100 * condition.quantile:g}%" for condition in line if getattr(condition, holds)]
    return "nowhere" if not at else "everywhere" if len(at) == len(line) else f"at {', '.join(at)}"
