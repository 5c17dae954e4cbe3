"""Constants of softmax that are proven here, each by the derivation in its docstring.

The paper's conditions (:mod:`.claims`) compare bounds that grow as ``e^delta``, the exponential of the dispersion.
What is proven says less for focus:

* From l1 to l1, softmax has the exact constant ``sup 2p(1-p)``, which is never above 1/2 and is 1/2 as soon as
  ``e^delta >= L - 1``: above a dispersion of ``ln(L - 1)``, 3.7 for 40 keys, no constant depends on it any more.
* From l-infinity to l1, the constant is at most 1 whatever the dispersion, and full attention moves with its
  parameters by at most ``L Upsilon Xi^3``: the paper's bound without its factor ``e^delta_s``.
* Top-k adds a jump where the selection changes. It has no constant without a positive separation; with one, its proven
  constant is below 1/2, and so perhaps below that of full attention, only if the separation is above 2 / k.

All of them take and return floats.
"""

from __future__ import annotations

import math

from ..messages import check_integer


def largest_weight(delta: float, keys: int) -> float:
    """Largest softmax weight among ``keys`` scores with ``max - min <= delta``: ``e^delta / (e^delta + L - 1)``.

    Proof. ``p_j = 1 / (1 + sum_{i != j} e^(z_i - z_j))`` is largest where every ``z_i - z_j`` is lowest, ``-delta``.

    Args:
        delta: dispersion, at least 0.
        keys: L, at least 1.

    Raises:
        ValueError: an argument out of its range.
    """
    _check(delta, keys)
    return 1 / (1 + (keys - 1) * math.exp(-delta))


def softmax_constant(delta: float, keys: int) -> float:
    """Exact Lipschitz constant of softmax from l1 to l1 over scores with ``max - min <= delta``: ``sup 2p(1-p)``.

    Proof. The Jacobian is ``J = diag(p) - p p^T``. Its norm from l1 to l1 is the largest l1 norm of a column,
    ``p_j (1 - p_j) + sum_{i != j} p_i p_j = 2 p_j (1 - p_j)``. The set of scores is convex, so the constant is at most
    the supremum of that over the set. ``p_j`` takes all values up to :func:`largest_weight`, and ``2p(1-p)`` grows up
    to p = 1/2, hence ``2p(1-p)`` at the largest weight, or 1/2 if that is above 1/2. It is attained where one score
    is delta above the others and is lowered, which stays in the set.

    For ``delta = 0`` this is the limit, ``2 (1/L) (1 - 1/L)``: the norm of the derivative at equal scores.

    Args:
        delta: dispersion of both scores that are compared, at least 0.
        keys: L, at least 1. For a pattern that does not depend on the input, or inside a cell of constant selection
            of top-k, the number of kept keys, with their dispersion.

    Raises:
        ValueError: an argument out of its range.
    """
    weight = largest_weight(delta, keys)
    if keys > 1:  # or 1 is the only weight there is
        weight = min(0.5, weight)
    return 2 * weight * (1 - weight)


def softmax_bound(delta: float, keys: int) -> float:
    """``min(1/2, 2 e^delta / L)``, a simple bound of :func:`softmax_constant` in the form of the paper's.

    Proof. ``2p(1-p) <= 2p`` and ``e^delta + L - 1 >= L``, as ``e^delta >= 1``. The factor 2 is needed: at
    ``delta = 0`` the constant is ``2 (1 - 1/L) / L``, above ``e^delta / L`` for L > 2.

    Args:
        delta: dispersion, at least 0.
        keys: L, at least 1.

    Raises:
        ValueError: an argument out of its range.
    """
    _check(delta, keys)
    return min(0.5, 2 * math.exp(min(delta - math.log(keys), 0.0)))


def border_jump(delta_h: float, k: int) -> float:
    """Largest l1 jump of top-k softmax where one kept key gives way to a dropped one of the same score.

    Proof. At the border both keys have the lowest kept score, and so the same weight p on either side; all other
    weights stay. The weights move by ``2p``. A lowest weight is at most ``1 / (k - 1 + e^delta_h)``, attained where
    one kept score is delta_h above the k - 1 others. The jump does not vanish with the distance of the scores: top-k
    softmax is not continuous there, and no constant holds across a border without a separation.

    Args:
        delta_h: dispersion of the kept scores, at least 0; if it is only known to be at most that, take 0.
        k: kept keys, at least 1.

    Raises:
        ValueError: an argument out of its range.
    """
    _check(delta_h, k)
    return 2.0 if k == 1 else 2 * math.exp(-delta_h) / (1 + (k - 1) * math.exp(-delta_h))


def topk_constant(delta_h: float, separation: float, k: int) -> float:
    """A Lipschitz constant of top-k softmax from l1 to l1: ``max(c, c/2 + 1/(k Delta))``.

    c is ``softmax_constant(delta_h, k)``. It holds for any two scores z, z' whose kept dispersions are at most delta_h
    and whose separations are both at least Delta > 0, whether or not they keep the same keys. For ``Delta <= 1`` it is
    at most the paper's form ``(e^delta_h / k) (1 + 1/Delta)``; for large Delta that form fails, as it lacks the factor
    2 of :func:`softmax_bound`.

    Proof. Let z keep K with lowest score m, z' keep K' with lowest score m', r = |K \\ K'|, and D = ||z - z'||_1. Pair
    every i in K \\ K' with a j in K' \\ K; let a = z_i - m, b = z'_j - m', h = min(a, b), and d = |z_i - z'_i| +
    |z_j - z'_j|. As i is dropped by z' and j by z, ``z'_i <= m' - Delta`` and ``z_j <= m - Delta``.

    1. ``d >= (z_i - z'_i) + (z'_j - z_j) >= a + b + 2 Delta``, so ``D >= 2 r Delta``.
    2. Put z'_j in the place of z_i: u and u' are kept scores in k places. If ``z_i >= z'_j``, then ``|z_i - z'_i| >=
       z_i - m' + Delta = |z_i - z'_j| + b + Delta``; the other case is alike. So ``|u - u'| <= d - h - Delta`` in
       every such place, and in total ``||u - u'||_1 <= D - sum(h + Delta)``.
    3. With p and p' the weights in such a place, the weights of z and z' differ by at most ``||softmax(u) -
       softmax(u')||_1 + sum 2 min(p, p')``, the first of which is at most ``c ||u - u'||_1``.
    4. ``min(p, p') <= g(h)`` with ``g(t) = e^t / (e^t + k - 1)``; as ``2 g' = 2 g (1 - g) <= c`` up to delta_h,
       ``2 g(h) <= 2/k + c h``.

    Together: at most ``c D + r (2/k - c Delta)``. By 1 this is at most ``D (c + max(0, 1/(k Delta) - c/2))``.

    Args:
        delta_h: dispersion of the kept scores, at least 0.
        separation: Delta, above 0.
        k: kept keys, at least 1.

    Raises:
        ValueError: an argument out of its range.
    """
    check_separation(separation)
    inside = softmax_constant(delta_h, k)
    return max(inside, inside / 2 + 1 / (k * separation))


def _check(delta: float, keys: int) -> None:
    check_integer("keys", keys, 1)
    if not delta >= 0:
        raise ValueError(f"delta={delta!r}; expected a number of at least 0")


def check_separation(separation: float) -> None:
    """Refuse a separation that is not above 0.

    Raises:
        ValueError: shows it.
    """
    if not separation > 0:
        raise ValueError(f"separation={separation!r}; expected a number above 0: where it is 0, top-k has a jump")
