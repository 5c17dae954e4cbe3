"""The k highest of every query's candidates."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import place, vectors
from .scores import INT_MAX, INT_MIN, above_middle, count_true, ordered


@triton.jit(do_not_specialize=["start"])
def score_candidates(
    query, key, q_b, q_h, q_n, k_b, k_h, k_n, start, heads, groups, queries, sign, columns, counts, scores, rows,
    CAPACITY: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, R: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """``sign * q k`` for the candidates of ``R`` rows, ``E`` at a time."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    real = row < rows
    batch, head, kv_head, number = place(row + start * queries, heads, groups, queries)
    count = tl.load(counts + row, mask=real, other=0)
    q = vectors(query + batch * q_b + head * q_h + number * q_n, real, D, DIM) * sign
    key_head = key + (batch * k_b + kv_head * k_h)[:, None]
    for first in range(0, tl.max(count, 0), E):
        slot = first + tl.arange(0, E)[None, :]
        held = slot < count[:, None]
        entry = row[:, None].to(tl.int64) * CAPACITY + slot
        column = tl.load(columns + entry, mask=held, other=0).to(tl.int64)
        k = vectors(key_head + column * k_n, held, D, DIM)
        tl.store(scores + entry, tl.sum(q[:, None, :] * k, 2), mask=held)


@triton.jit(do_not_specialize=["k"])
def choose(scores, columns, counts, index, rows, k, CAPACITY: tl.constexpr, R: tl.constexpr):
    """The columns of the ``k`` highest candidates of ``R`` rows, of equal ones the later columns; -1 beyond."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    real = row < rows
    slot = tl.arange(0, CAPACITY)[None, :]
    held = slot < tl.load(counts + row, mask=real, other=0)[:, None]
    entry = row[:, None] * CAPACITY + slot
    column = tl.load(columns + entry, mask=held, other=0)
    order = tl.where(held, ordered(tl.load(scores + entry, mask=held, other=0.0)), INT_MIN)

    # the k-th highest, by bisection of its 32 bits
    low = tl.full([R], INT_MIN, tl.int32)
    high = tl.full([R], INT_MAX, tl.int32)
    for _ in range(32):
        middle = above_middle(low, high)
        enough = count_true(order >= middle[:, None]) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    above = order > low[:, None]
    level = held & (order == low[:, None])
    room = k - count_true(above)

    # of those equal to it the latest, by bisection of the column from which on there is room for all
    since = tl.zeros([R], tl.int32)
    if tl.max(count_true(level) - room, 0) > 0:
        until = tl.full([R], INT_MAX, tl.int32)
        for _ in range(31):
            middle = above_middle(since, until)
            enough = count_true(level & (column >= middle[:, None])) >= room
            since = tl.where(enough, middle, since)
            until = tl.where(enough, until, middle - 1)
    kept = above | (level & (column >= since[:, None]))

    ones = kept.to(tl.int32)
    out = index + row[:, None] * k
    tl.store(out + tl.cumsum(ones, 1) - 1, column, mask=kept)
    tl.store(
        out + slot + tl.zeros_like(column), -1, mask=real[:, None] & (slot >= tl.sum(ones, 1)[:, None]) & (slot < k)
    )
