"""Constants of attention that are proven here: how far it moves with its parameters and with its inputs at most.

``A(X) = V X softmax(X^T W X)`` column by column, with L inputs of ``||x_i||_2 <= Xi``, ``||V|| <= Upsilon`` and
``||W|| <= Gamma``; outputs are measured by ``sum_i ||.||_2``. All functions take and return floats.
"""

from __future__ import annotations

from ..messages import check_integer
from .proven import check_separation, largest_weight, softmax_constant


def proven_lambda_w(keys: int, value_norm: float, input_norm: float) -> float:
    """How far full attention moves with its parameters at most, per unit of ``||W - W'||``: ``L Upsilon Xi^3``.

    This is the paper's bound without its factor ``e^delta_s``.

    Proof. ``|x_j^T (W - W') x_i| <= Xi^2 ||W - W'||``: no score of a query moves by more. From l-infinity to l1 the
    Jacobian of softmax has the norm ``max_s sum_i p_i |s_i - p.s|`` over signs s, which is ``4 P (1 - P) <= 1`` with P
    the weight of the positive ones. So the weights of a query move by at most ``Xi^2 ||W - W'||`` in l1, and its
    output by ``Upsilon Xi`` times that; there are L queries.

    Args:
        keys: L, at least 1.
        value_norm: Upsilon, spectral norm of V.
        input_norm: Xi, largest norm of an input.

    Raises:
        ValueError: an argument out of its range.
    """
    check_integer("keys", keys, 1)
    return keys * value_norm * input_norm**3


def topk_lambda_w(keys: int, separation: float, value_norm: float, input_norm: float) -> float:
    """The same for top-k with separations of at least Delta on both sides: ``L Upsilon Xi^3 max(1, 2/Delta)``.

    Proof. Where a query keeps the same keys, the constant of :func:`proven_lambda_w` holds for their softmax. Where it
    does not, a score has moved by at least Delta: with i and j as in :func:`topk_constant`, ``(z_i - z_j) - (z'_i -
    z'_j) >= 2 Delta`` is spread over two scores. Weights differ by at most 2 in l1, so ``2 / Delta`` times the move.

    Args:
        keys: L, at least 1.
        separation: Delta, above 0.
        value_norm: Upsilon, spectral norm of V.
        input_norm: Xi, largest norm of an input.

    Raises:
        ValueError: an argument out of its range.
    """
    check_separation(separation)
    return proven_lambda_w(keys, value_norm, input_norm) * max(1.0, 2 / separation)


def proven_lambda_x(delta: float, keys: int, value_norm: float, score_norm: float, input_norm: float) -> float:
    """How far full attention moves with its inputs at most, per unit of ``sum_i ||x_i - x'_i||_2``.

    ``Upsilon (L p + Gamma Xi^2 (1 + L c))``, with p = :func:`.largest_weight` and c = :func:`.softmax_constant`.

    Proof. With s, s' the weights of a query i and D the total move of the inputs, its output moves by at most
    ``Upsilon (sum_j s_j ||x_j - x'_j|| + Xi ||s - s'||_1)``. Summed over queries, the first part is at most ``L p D``,
    as no weight is above p. The scores move by ``x_j^T W (x_i - x'_i) + (x_j - x'_j)^T W x'_i``: the first by at most
    ``Gamma Xi ||x_i - x'_i||`` for every j, which moves the weights by as much (l-infinity to l1, constant 1); the
    second by ``Gamma Xi D`` in l1, which moves them by c times that. Summed over queries, ``Gamma Xi D (1 + L c)``.

    Args:
        delta: dispersion of the scores of both inputs, at least 0.
        keys: L, at least 1.
        value_norm: Upsilon, spectral norm of V.
        score_norm: Gamma, spectral norm of W.
        input_norm: Xi, largest norm of an input.

    Raises:
        ValueError: an argument out of its range.
    """
    scores = score_norm * input_norm**2 * (1 + keys * softmax_constant(delta, keys))
    return value_norm * (keys * largest_weight(delta, keys) + scores)
