"""Candidates: a few more than the k keys of highest score of every query, in two passes over all scores.

1. Running maxima over groups of keys. Every group maximum is a score, so the k-th largest of them bounds the k-th
   largest score of the row from below. One operation per score.
2. One bit per score: whether it reaches the bound. Every group packs its bits of 32 tiles into a word, in the
   registers that hold the scores, and the words become columns. Two to three operations per score.

A group takes one key of every tile of keys, by a hash of the tile's number: keys that follow each other, or repeat
with some period, are spread over the groups.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .scores import INT_MAX, LOWEST, above_middle, count_true, locate, ordered, score_tile


@triton.jit
def column_of(first, group, N: tl.constexpr):
    """The column that a group takes of the tile of ``N`` columns from ``first``, a multiple of ``N``."""
    mixed = (first // N + tl.zeros_like(group)) * 0x61C88647
    mixed = (mixed ^ (mixed >> 15)) * 0x165667B1
    return first + (group ^ ((mixed >> 16) & (N - 1)))


@triton.jit
def bound(best, k):
    """A number that at least ``k`` of the maxima in every row reach, NaN if so many are NaN: ``[M, N] -> [M]``.

    16 bisections of their bits; what is left of the interval costs a few candidates.
    """
    order = ordered(best)
    low = tl.min(order, 1)
    high = tl.max(order, 1)
    for _ in range(16):
        middle = above_middle(low, high)
        enough = count_true(order >= middle[:, None]) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return tl.where(low < 0, low ^ INT_MAX, low).to(tl.float32, bitcast=True)


@triton.jit
def _ones(word):
    """How many bits of an int32 are set."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return (word * 0x01010101) >> 24


@triton.jit
def _append(words, first, row, rows, columns, counts, capacity, M: tl.constexpr, N: tl.constexpr, R: tl.constexpr):
    """List the columns marked in 32 tiles from ``first``, as far as they fit, ``R`` rows at a time.

    Bit ``t`` of ``words[row, g]`` marks the column of group ``g`` in the ``t``-th tile.
    """
    group = tl.zeros([R, N], tl.int32) + tl.arange(0, N)[None, :]
    for begin in range(0, M, R):
        number = begin + tl.arange(0, R)
        real = number < rows
        word = tl.load(words + number[:, None] * N + group, mask=real[:, None], other=0)
        count = tl.load(counts + row + number, mask=real, other=0)
        tl.debug_barrier()
        left = _ones(word)
        tl.store(counts + row + number, count + tl.sum(left, 1), mask=real)
        slot = count[:, None] + tl.cumsum(left, 1) - left
        left = tl.minimum(left, capacity - slot)
        at = columns + (row + number)[:, None] * capacity
        while tl.max(tl.max(left, 1), 0) > 0:
            # the lowest set bit, a power of two, and its exponent as a float
            bit = ((word & -word).to(tl.float32).to(tl.int32, bitcast=True) >> 23 & 0xFF) - 127
            tl.store(at + slot, column_of(first + bit * N, group, N), mask=left > 0)
            word &= word - 1
            slot += 1
            left -= 1


@triton.jit(do_not_specialize=["start", "reach", "k", "capacity"])
def collect(
    query, key, q_b, q_h, q_n, k_b, k_h, k_n, start, heads, groups, queries, keys, reach, mask, spans,
    m_b, m_h, m_q, m_k, s_b, s_h, s_q, sign, k, columns, counts, capacity, words,
    HOLES: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, DIMS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    R: tl.constexpr,
):  # fmt: skip
    """The candidates of ``M`` queries in ``columns``, and how many there are in ``counts``.

    The two passes may round a score differently, so that fewer than ``k`` reach the bound. Then, as where more reach
    it than fit, the count is larger than ``capacity``.
    """
    row, real, at, begin, end, q, query, key, mask = locate(
        query, key, q_b, q_h, q_n, k_b, k_h, start, heads, groups, queries, keys, reach, mask, spans, m_b, m_h,
        s_b, s_h, s_q, sign, HOLES, D, DIMS, M,
    )  # fmt: skip
    group = tl.arange(0, N)
    low = tl.min(begin, 0) // N * N
    high = tl.max(end, 0)
    # the columns that all of these queries see
    left = tl.max(begin, 0)
    right = tl.min(end, 0)

    best = tl.full([M, N], -float("inf"), tl.float32)
    for first in range(low, high, N):
        cut = (first < left) | (first + N > right) | HOLES
        s = score_tile(
            column_of(first, group, N), cut, q, query, key, at, begin, end, mask, keys, q_n, k_n, m_q, m_k, sign,
            HOLES, D, DIM, DIMS,
        )  # fmt: skip
        best = tl.maximum(best, s, propagate_nan=tl.PropagateNan.ALL)
    # finite, so that what a query may not see stays below it; of a number and NaN the number
    least = tl.maximum(tl.full([M], LOWEST, tl.float32), bound(best, k))

    # words and counts pass through memory (through caches, as every program has its own), a few rows at a time, since
    # with all rows in registers nothing else would fit
    words += tl.program_id(0).to(tl.int64) * M * N
    tl.store(counts + row, 0, mask=real)
    for block in range(low, high, 32 * N):
        marks = tl.zeros([M, N], tl.int32)
        for first in range(block, tl.minimum(block + 32 * N, high), N):
            cut = (first < left) | (first + N > right) | HOLES
            s = score_tile(
                column_of(first, group, N), cut, q, query, key, at, begin, end, mask, keys, q_n, k_n, m_q, m_k,
                sign, HOLES, D, DIM, DIMS,
            )  # fmt: skip
            # true for NaN
            marks |= tl.where(s < least[:, None], 0, 1 << ((first - block) // N))
        tl.debug_barrier()
        tl.store(words + tl.arange(0, M)[:, None] * N + group[None, :], marks)
        tl.debug_barrier()
        _append(words, block, tl.min(row, 0), tl.sum(real.to(tl.int32), 0), columns, counts, capacity, M, N, R)
    tl.debug_barrier()
    count = tl.load(counts + row, mask=real, other=0)
    enough = count >= tl.where(least > LOWEST, k, 0)
    tl.store(counts + row, tl.where(enough, count, capacity + 1), mask=real)
