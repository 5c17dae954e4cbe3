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

import numpy as np
from numpy.typing import ArrayLike, NDArray

FLOOR = 1e-9
"""Smaller dispersions and separations count as this, as in the paper's table."""


def lambda_w(delta_s: ArrayLike, delta_h: ArrayLike, separation: ArrayLike) -> float | NDArray[np.float64]:
    """Left side of the paper's condition on parameters; it claims a better guarantee for top-k where this is below 1.

    The bounds are ``L Upsilon Xi^3 e^delta_s`` for full attention and ``2 L Upsilon Xi^3 e^delta_h (1 + 1/Delta_h)``
    for top-k, hence ``delta_h / delta_s + ln(2 (1 + 1/Delta_h)) / delta_s``, computed in logarithms.

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
