"""The exact path of the selection, for rows whose candidates do not fit: one more pass over the scores."""

from __future__ import annotations

import triton
import triton.language as tl

from .scores import locate, ordered, score_tile

_NONE = tl.constexpr(-(2**63))


@triton.jit(do_not_specialize=["start", "reach", "k", "capacity"])
def recollect(
    query, key, q_b, q_h, q_n, k_b, k_h, k_n, start, heads, groups, queries, keys, reach, mask, spans,
    m_b, m_h, m_q, m_k, s_b, s_h, s_q, sign, k, columns, counts, capacity,
    HOLES: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, DIMS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Replace candidates by the ``k`` highest in the rows that have more than ``capacity``; ``N`` is at least ``k``.

    The ``N`` highest pairs (score, column) so far are kept sorted. A tile is merged into them where one of its pairs
    is above the ``k``-th, and the last columns come first, so that of equal scores only the latest are ever merged.
    """
    row, real, at, begin, end, q, query, key, mask = locate(
        query, key, q_b, q_h, q_n, k_b, k_h, start, heads, groups, queries, keys, reach, mask, spans, m_b, m_h,
        s_b, s_h, s_q, sign, HOLES, D, DIMS, M,
    )  # fmt: skip
    open = tl.load(counts + row, mask=real, other=0) > capacity
    if tl.max(open.to(tl.int32), 0) > 0:
        slot = tl.arange(0, N)[None, :]
        low = tl.min(begin, 0) // N
        tiles = tl.cdiv(tl.max(end, 0), N)
        best = tl.full([M, N], _NONE, tl.int64)
        kth = tl.full([M], _NONE, tl.int64)
        for tile in range(low, tiles):
            column = (low + tiles - 1 - tile) * N + tl.arange(0, N)
            s = score_tile(
                column, True, q, query, key, at, begin, end, mask, keys, q_n, k_n, m_q, m_k, sign,
                HOLES, D, DIM, DIMS,
            )  # fmt: skip
            pair = (ordered(s).to(tl.int64) << 32) | column[None, :].to(tl.int64)
            pair = tl.where(open[:, None] & (s != -float("inf")), pair, _NONE)
            if tl.max((tl.max(pair, 1) > kth).to(tl.int32), 0) > 0:
                # of a descending and an ascending list the maxima are the N highest of both
                best = tl.bitonic_merge(tl.maximum(best, tl.sort(pair)), descending=True)
                kth = tl.max(tl.where(slot >= k - 1, best, _NONE), 1)
        found = best != _NONE
        wanted = open[:, None] & (slot < k)
        tl.store(columns + row[:, None] * capacity + slot, best.to(tl.int32), mask=wanted & found)
        tl.store(counts + row, tl.sum((wanted & found).to(tl.int32), 1), mask=open)
