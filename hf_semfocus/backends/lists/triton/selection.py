"""Which k keys every query keeps, found without ever holding a row of scores.

The scores ``q k^T`` of a tile of queries are computed twice, tile of keys by tile of keys, because with tensor cores
that is cheaper than storing them, and than any bookkeeping beyond a few operations per score:

1. ``_mark``, first pass: running maxima over groups of keys, group ``g`` holding the columns congruent to ``g``
   modulo the tile's width. Every group maximum is a score, so the k-th largest of them bounds the k-th largest
   score of the row from below. One operation per score.
2. ``_mark``, second pass: one bit per score, whether it reaches the bound. Every group packs its bits of 32 tiles
   into a word, in the registers that hold the scores. Two to three operations per score.
3. ``_list`` turns the bits into columns, the candidates; ``_score`` computes their scores once more, from gathered
   keys; and ``_choose`` takes the k highest, of equal ones the later columns
   (see :mod:`hf_semfocus.attention.selection`).

With G groups a row has about ``G ln(G / (G - k))`` candidates: 1.15 k for G = 4 k, 1.4 k for G = 2 k. The list holds
at least 2 k. Rows that would not fit (mass ties, k beyond G, NaN) go through ``_recollect``, which bisects the pairs
(score, column) by counting passes until at least k and no more than fit are left.

The two computations of a score may round differently, so rows in which the second marks fewer than k candidates go
through ``_recollect``, too, and of scores that differ by less than their rounding either may be kept, as between any
two implementations. Equal keys have equal scores in both.

Tested in Triton's interpreter and compiled ahead of time, not yet measured on a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....attention.problem import Problem
from .common import gathered_tile, padded, place, rows_of, vectors

# Bits, candidates and their scores of all rows that are worked on at a time: 256 MiB.
BUFFER_WORDS = 1 << 26

_LOWEST = tl.constexpr(torch.finfo(torch.float32).min)
_INT_MIN = tl.constexpr(-(2**31))
_INT_MAX = tl.constexpr(2**31 - 1)
_LONG_MIN = tl.constexpr(-(2**63))
_LONG_MAX = tl.constexpr(2**63 - 1)


class Tile(NamedTuple):
    """Sizes of one program of the kernels that compute all scores.

    Attributes:
        rows: queries, a power of two of at least 16.
        columns: keys of a tile, also the number of groups, a power of two of at least 16.
        dims: how much of the head dimension is multiplied at a time, a power of two of at least 16.
        num_warps: warps of the program.
        num_stages: how many tiles of keys are in flight.
    """

    rows: int
    columns: int
    dims: int
    num_warps: int
    num_stages: int


def tile_for(k: int, queries: int, head_dim: int, element_size: int) -> Tile:
    """Sizes for Hopper, chosen by arithmetic.

    At least 2 k groups where registers allow: maxima (or words) and scores are 32-bit tiles in registers, and 128 x
    128 or 64 x 256 on 8 warps is 64 + 64 registers per thread and fills the ``wgmma`` of two warpgroups. A tile of
    keys takes at most 32 KiB, so that two in flight and the queries also fit the 99 KiB of smaller chips. Float32 is
    multiplied without tensor cores, in unrolled code, so it gets smaller tiles.
    """
    columns = 128 if k <= 64 else 256
    rows = 16 if queries <= 16 else 64 if columns == 256 or element_size > 2 else 128
    dims = 32 if element_size > 2 else (32 << 10) // (columns * element_size)
    return Tile(rows, columns, min(dims, padded(head_dim)), 4 if rows == 16 else 8, 2)


def select(problem: Problem, k: int, sign: int) -> Tensor:
    """Columns of the ``k`` visible keys with the highest ``sign * score`` of every query, in no particular order.

    The last dimension of query and key must be contiguous.

    Returns:
        int32 ``[batch, heads, queries, k]``; -1 at the end where a query sees fewer keys.
    """
    query, key, scale = problem.query, problem.key, problem.scale
    mask, limit = problem.visibility.mask, problem.visibility.limit
    (batch, heads, queries, keys), head_dim = problem.shape, query.shape[-1]
    tile = tile_for(k, queries, head_dim, query.element_size())
    capacity, blocks = padded(2 * k), triton.cdiv(keys, 32 * tile.columns)
    words_per_row = blocks * tile.columns + 2 * capacity
    step = max(1, min(batch * heads, BUFFER_WORDS // max(1, queries * words_per_row)))
    index = query.new_empty((batch * heads, queries, k), dtype=torch.int32)
    words = index.new_empty((step * queries, blocks * tile.columns))
    columns = index.new_empty((step * queries, capacity))
    counts = index.new_empty(step * queries)
    scores = query.new_empty(columns.shape, dtype=torch.float32)

    kind = 0 if mask is None else 2 if mask.shape[-2] > 1 else 1
    mask = index.new_ones(1, dtype=torch.uint8) if mask is None else mask.view(torch.uint8)
    mask = mask.expand(batch, heads, queries, keys)
    sizes = {"SIGN": sign * ((scale > 0) - (scale < 0)), "D": head_dim, "DIM": padded(head_dim)}
    passes = {
        **sizes,
        "MASK": kind,
        "K": k,
        "M": tile.rows,
        "N": tile.columns,
        "DIMS": tile.dims,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
    # rarely needed, and its registers hold 64-bit ranks
    again = {**passes, "M": min(64, tile.rows), "N": min(128, tile.columns), "num_stages": 1}
    few, at_a_time = gathered_tile(capacity, head_dim)
    for start in range(0, batch * heads, step):
        count = min(step, batch * heads - start)
        rows = count * queries
        tensors = (query, key, *query.stride()[:3], *key.stride()[:3])
        where = (start, heads, heads // key.shape[1], queries, keys)
        seen = (mask, limit, *mask.stride())
        _mark[(count * triton.cdiv(queries, tile.rows),)](*tensors, *where, *seen, words, counts, blocks, **passes)
        _list[(triton.cdiv(rows, rows_of(tile.columns)),)](
            words,
            blocks,
            columns,
            counts,
            rows,
            CAPACITY=capacity,
            N=tile.columns,
            R=rows_of(tile.columns),
            num_warps=4,
        )
        _recollect[(count * triton.cdiv(queries, again["M"]),)](
            *tensors, *where, *seen, columns, counts, CAPACITY=capacity, **again
        )
        _score[(triton.cdiv(rows, few),)](
            *tensors,
            *where,
            columns,
            counts,
            scores,
            rows,
            CAPACITY=capacity,
            **sizes,
            R=few,
            E=at_a_time,
            num_warps=4,
        )
        _choose[(triton.cdiv(rows, rows_of(capacity)),)](
            scores, columns, counts, index[start:], rows, K=k, CAPACITY=capacity, R=rows_of(capacity), num_warps=4
        )
    return index.view(batch, heads, queries, k)


@triton.jit
def _ordered(score):
    """int32 that compare as the float32 ``score`` do: both zeros equal, NaN highest."""
    bits = score.to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ _INT_MAX, bits)
    return tl.where(score == 0.0, 0, tl.where(score != score, _INT_MAX, bits))


@triton.jit
def _rank(score, first, N: tl.constexpr):
    """int64 that compare as the pairs (score, column), lowest where the score is -inf: ``[M, N]``."""
    column = first + tl.arange(0, N)
    rank = (_ordered(score).to(tl.int64) << 32) | column[None, :].to(tl.int64)
    return tl.where(score == -float("inf"), _LONG_MIN, rank)


@triton.jit
def _above_middle(low, high):
    """The mean of integers, rounded up, without overflow."""
    return (low | high) - ((low ^ high) >> 1)


@triton.jit
def _count(condition):
    """How many are true in every row: bool ``[R, C]`` -> int32 ``[R]``."""
    return tl.sum(condition.to(tl.int32), 1)


@triton.jit
def _dims(base, at, first, stride, real, D: tl.constexpr, DIMS: tl.constexpr):
    """Dimensions from ``first`` of the vectors ``at``, zeros beyond ``D`` and where not ``real``: ``[at, DIMS]``."""
    dim = first + tl.arange(0, DIMS)
    where = at[:, None].to(tl.int64) * stride + dim[None, :]
    return tl.load(base + where, mask=real[:, None] & (dim < D)[None, :], other=0.0)


@triton.jit
def _start(
    query, key, q_b, q_h, q_n, k_b, k_h, start, heads, groups, queries, keys, mask, own, m_b, m_h,
    SIGN: tl.constexpr, D: tl.constexpr, DIMS: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """What this program works on.

    Returns:
        ``(row, real, last, q, query, key, mask, at)``: rows of the buffers int64 ``[M]`` and which exist; the last
        column that causality and the number of keys leave to every query; the first dimensions of the queries
        ``[M, DIMS]``; pointers to the head's queries, keys and mask; and the queries' numbers int32 ``[M]``.
    """
    tiles = tl.cdiv(queries, M)
    number = tl.program_id(0) // tiles
    # under causality the last queries see the most keys, so they start first
    at = (tiles - 1 - tl.program_id(0) % tiles) * M + tl.arange(0, M)
    real = at < queries
    row = number.to(tl.int64) * queries + at
    # what is past the end repeats the last query, so that only what is stored need be masked
    at = tl.minimum(at, queries - 1)
    batch = ((start + number) // heads).to(tl.int64)
    head = ((start + number) % heads).to(tl.int64)
    query += batch * q_b + head * q_h
    key += batch * k_b + head // groups * k_h
    mask += batch * m_b + head * m_h
    last = tl.zeros_like(at) + (keys - 1)
    if own is not None:
        last = tl.minimum(last, tl.load(own + at).to(tl.int32))
    q = _dims(query, at, 0, q_n, real, D, DIMS) * SIGN
    return row, real, last, q, query, key, mask, at


@triton.jit
def _scores(
    first, q, query, key, mask, at, last, keys, q_n, k_n, m_q, m_k, EDGE: tl.constexpr, SIGN: tl.constexpr,
    MASK: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, DIMS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """``SIGN * q k^T`` for the ``N`` keys from ``first``, -inf where a query may not see a key: float32 ``[M, N]``.

    Every pass calls this with the same sizes, so a query and a key have the same score in all of them. ``EDGE``:
    whether causality or the number of keys may cut this tile. ``MASK``: 0 none, 1 of keys, 2 of pairs.
    """
    column = first + tl.arange(0, N)
    real = column < keys
    k = _dims(key, column, 0, k_n, real, D, DIMS)
    score = tl.dot(q, tl.trans(k), input_precision="ieee")
    if DIMS < DIM:
        for dim in range(DIMS, DIM, DIMS):
            more = _dims(query, at, dim, q_n, at >= 0, D, DIMS) * SIGN
            k = _dims(key, column, dim, k_n, real, D, DIMS)
            score = tl.dot(more, tl.trans(k), score, input_precision="ieee")
    if MASK == 1:
        seen = tl.load(mask + column.to(tl.int64) * m_k, mask=real, other=0) != 0
        score = tl.where(seen[None, :], score, -float("inf"))
    if MASK == 2:
        where = at[:, None].to(tl.int64) * m_q + column[None, :].to(tl.int64) * m_k
        score = tl.where(tl.load(mask + where, mask=real[None, :], other=0) != 0, score, -float("inf"))
    if EDGE:
        score = tl.where(column[None, :] <= last[:, None], score, -float("inf"))
    return score


@triton.jit
def _bound(best, K: tl.constexpr):
    """A number that at least ``K`` of the maxima in every row reach, NaN if so many are NaN: ``[M, N] -> [M]``.

    16 bisections of their bits; what is left of the interval costs a few candidates.
    """
    order = _ordered(best)
    low = tl.min(order, 1)
    high = tl.max(order, 1)
    for _ in range(16):
        middle = _above_middle(low, high)
        enough = _count(order >= middle[:, None]) >= K
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return tl.where(low < 0, low ^ _INT_MAX, low).to(tl.float32, bitcast=True)


@triton.jit
def _mark(
    query, key, q_b, q_h, q_n, k_b, k_h, k_n, start, heads, groups, queries, keys, mask, own, m_b, m_h, m_q, m_k,
    words, counts, blocks,
    SIGN: tl.constexpr, MASK: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr,
    DIMS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Mark every row's candidates: bit ``t`` of ``words[row, block * N + g]`` is column ``(32 block + t) N + g``.

    ``counts`` gets how many there must be: ``K`` where the maxima bound them, else any number.
    """
    row, real, last, q, query, key, mask, at = _start(
        query, key, q_b, q_h, q_n, k_b, k_h, start, heads, groups, queries, keys, mask, own, m_b, m_h,
        SIGN, D, DIMS, M,
    )  # fmt: skip
    end = tl.max(last, 0) + 1
    full = tl.maximum(tl.min(last, 0) + 1, 0) // N * N

    # finite, so that what a query may not see stays below it
    bound = tl.full([M], _LOWEST, tl.float32)
    if K <= N:
        best = tl.full([M, N], -float("inf"), tl.float32)
        # first the tiles of which every query sees all, then those that causality or the end cuts
        for edge in tl.static_range(2):
            for first in range(edge * full, full + edge * (end - full), N):
                s = _scores(
                    first, q, query, key, mask, at, last, keys, q_n, k_n, m_q, m_k, edge, SIGN, MASK, D, DIM, DIMS, N
                )
                best = tl.maximum(best, s, propagate_nan=tl.PropagateNan.ALL)
        # of a number and NaN the number
        bound = tl.maximum(bound, _bound(best, K))
    tl.store(counts + row, tl.where(bound > _LOWEST, K, 0), mask=real)

    for block in range(0, blocks):
        marks = tl.zeros([M, N], tl.int32)
        begin = block * 32 * N
        stop = tl.minimum(begin + 32 * N, end)
        middle = tl.minimum(tl.maximum(full, begin), stop)
        for edge in tl.static_range(2):
            for first in range(begin + edge * (middle - begin), middle + edge * (stop - middle), N):
                s = _scores(
                    first, q, query, key, mask, at, last, keys, q_n, k_n, m_q, m_k, edge, SIGN, MASK, D, DIM, DIMS, N
                )
                # true for NaN
                marks |= tl.where(s < bound[:, None], 0, 1 << ((first - begin) // N))
        where = row[:, None] * (blocks * N) + block * N + tl.arange(0, N)[None, :]
        tl.store(words + where, marks, mask=real[:, None])


@triton.jit
def _ones(word):
    """How many bits of an int32 are set."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return (word * 0x01010101) >> 24


@triton.jit
def _list(
    words, blocks, columns, counts, rows, CAPACITY: tl.constexpr, N: tl.constexpr, R: tl.constexpr
):  # fmt: skip
    """The columns marked in ``R`` rows, as far as they fit, and how many there are.

    The pass that bounds and the pass that marks may round a score differently, so that fewer are marked than
    ``counts`` asks for. Then more are said to be there than fit, which sends the row through ``_recollect``.
    """
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    real = row < rows
    group = tl.arange(0, N)
    count = tl.zeros([R], tl.int32)
    for block in range(0, blocks):
        word = tl.load(words + row[:, None] * (blocks * N) + block * N + group[None, :], mask=real[:, None], other=0)
        ones = _ones(word)
        slot = count[:, None] + tl.cumsum(ones, 1) - ones
        count += tl.sum(ones, 1)
        while tl.max(tl.max(ones, 1), 0) > 0:
            # the lowest set bit, a power of two, and its exponent as a float
            bit = ((word & -word).to(tl.float32).to(tl.int32, bitcast=True) >> 23 & 0xFF) - 127
            column = (block * 32 + bit) * N + group[None, :]
            tl.store(columns + row[:, None] * CAPACITY + slot, column, mask=(ones > 0) & (slot < CAPACITY))
            word &= word - 1
            slot += 1
            ones -= 1
    enough = count >= tl.load(counts + row, mask=real, other=0)
    tl.store(counts + row, tl.where(enough, count, CAPACITY + 1), mask=real)


@triton.jit
def _recollect(
    query, key, q_b, q_h, q_n, k_b, k_h, k_n, start, heads, groups, queries, keys, mask, own, m_b, m_h, m_q, m_k,
    columns, counts, CAPACITY: tl.constexpr,
    SIGN: tl.constexpr, MASK: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr,
    DIMS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """List candidates anew, few enough, in the rows that have more than fit.

    The passes that count and the pass that lists may round a score differently, so the list is cut where it is full.
    """
    row, real, last, q, query, key, mask, at = _start(
        query, key, q_b, q_h, q_n, k_b, k_h, start, heads, groups, queries, keys, mask, own, m_b, m_h,
        SIGN, D, DIMS, M,
    )  # fmt: skip
    left = tl.load(counts + row, mask=real, other=0) > CAPACITY
    if tl.max(left.to(tl.int32), 0) > 0:
        end = tl.max(last, 0) + 1
        low = tl.full([M], _LONG_MAX, tl.int64)
        high = tl.full([M], _LONG_MIN, tl.int64)
        for first in range(0, end, N):
            s = _scores(
                first, q, query, key, mask, at, last, keys, q_n, k_n, m_q, m_k, True, SIGN, MASK, D, DIM, DIMS, N
            )
            rank = _rank(s, first, N)
            low = tl.minimum(low, tl.min(tl.where(rank == _LONG_MIN, _LONG_MAX, rank), 1))
            high = tl.maximum(high, tl.max(rank, 1))

        # ranks are distinct, so some threshold is reached by at least K and at most CAPACITY of them
        threshold = low
        open = left
        while tl.max(open.to(tl.int32), 0) > 0:
            middle = _above_middle(low, high)
            total = tl.zeros([M], tl.int32)
            for first in range(0, end, N):
                s = _scores(
                    first, q, query, key, mask, at, last, keys, q_n, k_n, m_q, m_k, True, SIGN, MASK, D, DIM, DIMS, N
                )
                total += _count(_rank(s, first, N) >= middle[:, None])
            threshold = tl.where(open, middle, threshold)
            low = tl.where(total > CAPACITY, middle, low)
            high = tl.where(total < K, middle - 1, high)
            open = open & ((total < K) | (total > CAPACITY))

        written = tl.zeros([M], tl.int32)
        for first in range(0, end, N):
            s = _scores(
                first, q, query, key, mask, at, last, keys, q_n, k_n, m_q, m_k, True, SIGN, MASK, D, DIM, DIMS, N
            )
            hit = left[:, None] & (_rank(s, first, N) >= threshold[:, None])
            slot = written[:, None] + tl.cumsum(hit.to(tl.int32), 1) - 1
            column = tl.zeros_like(slot) + first + tl.arange(0, N)[None, :]
            tl.store(columns + row[:, None] * CAPACITY + slot, column, mask=hit & (slot < CAPACITY))
            written += _count(hit)
        tl.store(counts + row, tl.minimum(written, CAPACITY), mask=left)


@triton.jit
def _score(
    query, key, q_b, q_h, q_n, k_b, k_h, k_n, start, heads, groups, queries, keys, columns, counts, scores, rows,
    CAPACITY: tl.constexpr, SIGN: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, R: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """``SIGN * q k`` for the candidates of ``R`` rows, ``E`` at a time."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    real = row < rows
    batch, head, kv_head, number = place(row + start * queries, heads, groups, queries)
    count = tl.load(counts + row, mask=real, other=0)
    q = vectors(query + batch * q_b + head * q_h + number * q_n, real, D, DIM) * SIGN
    key_head = key + (batch * k_b + kv_head * k_h)[:, None]
    for first in range(0, tl.max(count, 0), E):
        slot = first + tl.arange(0, E)[None, :]
        held = slot < count[:, None]
        entry = row[:, None].to(tl.int64) * CAPACITY + slot
        column = tl.load(columns + entry, mask=held, other=0).to(tl.int64)
        k = vectors(key_head + column * k_n, held, D, DIM)
        tl.store(scores + entry, tl.sum(q[:, None, :] * k, 2), mask=held)


@triton.jit
def _choose(
    scores, columns, counts, index, rows, K: tl.constexpr, CAPACITY: tl.constexpr, R: tl.constexpr
):  # fmt: skip
    """The columns of the ``K`` highest candidates of ``R`` rows, of equal ones the later columns; -1 beyond."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    real = row < rows
    slot = tl.arange(0, CAPACITY)[None, :]
    held = slot < tl.load(counts + row, mask=real, other=0)[:, None]
    entry = row[:, None] * CAPACITY + slot
    column = tl.load(columns + entry, mask=held, other=0)
    order = tl.where(held, _ordered(tl.load(scores + entry, mask=held, other=0.0)), _INT_MIN)

    # the K-th highest, by bisection of its 32 bits
    low = tl.full([R], _INT_MIN, tl.int32)
    high = tl.full([R], _INT_MAX, tl.int32)
    for _ in range(32):
        middle = _above_middle(low, high)
        enough = _count(order >= middle[:, None]) >= K
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    above = order > low[:, None]
    level = held & (order == low[:, None])
    room = K - _count(above)

    # of those equal to it the latest, by bisection of the column from which on there is room for all
    since = tl.zeros([R], tl.int32)
    if tl.max(_count(level) - room, 0) > 0:
        until = tl.full([R], _INT_MAX, tl.int32)
        for _ in range(31):
            middle = _above_middle(since, until)
            enough = _count(level & (column >= middle[:, None])) >= room
            since = tl.where(enough, middle, since)
            until = tl.where(enough, until, middle - 1)
    kept = above | (level & (column >= since[:, None]))

    ones = kept.to(tl.int32)
    out = index + row[:, None] * K
    tl.store(out + tl.cumsum(ones, 1) - 1, column, mask=kept)
    tl.store(
        out + slot + tl.zeros_like(column), -1, mask=real[:, None] & (slot >= tl.sum(ones, 1)[:, None]) & (slot < K)
    )
