"""Tiles of scores, and their order: what the kernels of the selection share."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LOWEST = tl.constexpr(torch.finfo(torch.float32).min)
INT_MIN = tl.constexpr(-(2**31))
INT_MAX = tl.constexpr(2**31 - 1)


@triton.jit
def ordered(score):
    """int32 that compare as the float32 ``score`` do: both zeros equal, NaN highest."""
    bits = score.to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ INT_MAX, bits)
    return tl.where(score == 0.0, 0, tl.where(score != score, INT_MAX, bits))


@triton.jit
def above_middle(low, high):
    """The mean of integers, rounded up, without overflow."""
    return (low | high) - ((low ^ high) >> 1)


@triton.jit
def count_true(condition):
    """How many are true in every row: bool ``[R, C]`` -> int32 ``[R]``."""
    return tl.sum(condition.to(tl.int32), 1)


@triton.jit
def _dims(base, at, first, stride, real, D: tl.constexpr, DIMS: tl.constexpr):
    """Dimensions from ``first`` of the vectors ``at``, zeros beyond ``D`` and where not ``real``: ``[at, DIMS]``."""
    dim = first + tl.arange(0, DIMS)
    where = at[:, None].to(tl.int64) * stride + dim[None, :]
    return tl.load(base + where, mask=real[:, None] & (dim < D)[None, :], other=0.0)


@triton.jit
def _signed(query, at, first, stride, sign, D: tl.constexpr, DIMS: tl.constexpr):
    q = _dims(query, at, first, stride, at >= 0, D, DIMS)
    return (q * sign).to(q.dtype)


@triton.jit
def locate(
    query, key, q_b, q_h, q_n, k_b, k_h, start, heads, groups, queries, keys, reach, mask, spans, m_b, m_h,
    s_b, s_h, s_q, sign, HOLES: tl.constexpr, D: tl.constexpr, DIMS: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """What this program works on: ``M`` queries of one head, and the keys they may see.

    Where there is a mask, every kernel is launched twice: for programs in which some query has a hole, a hidden column
    between visible ones, and for those that need not read the mask. The others have no rows and no keys.

    Returns:
        ``(row, real, at, begin, end, q, query, key, mask)``: rows of the buffers int64 ``[M]`` and which to work on;
        the queries' numbers int32 ``[M]``; their first visible column and the one after their last ``[M]``; the first
        dimensions of ``sign`` times the queries ``[M, DIMS]``; pointers to the head's queries, keys and mask.
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
    begin = tl.zeros_like(at)
    end = tl.minimum(tl.maximum(reach + at + 1, 0), keys)
    if mask is not None:
        mask += batch * m_b + head * m_h
        span = spans + batch * s_b + head * s_h + at * s_q
        begin = tl.load(span)
        stop = tl.load(span + 1)
        hidden = tl.zeros_like(at) + tl.max(stop - begin - tl.load(span + 2), 0)
        mine = hidden > 0 if HOLES else hidden <= 0
        real &= mine
        end = tl.where(mine, tl.minimum(end, stop), 0)
    q = _signed(query, at, 0, q_n, sign, D, DIMS)
    return row, real, at, begin, end, q, query, key, mask


@triton.jit
def score_tile(
    column, cut, q, query, key, at, begin, end, mask, keys, q_n, k_n, m_q, m_k, sign,
    HOLES: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    """``sign * q k^T`` of the keys ``column``, -inf where a query may not see a key: float32 ``[at, column]``.

    ``cut``: whether some query may not see all of them.
    """
    real = column < keys
    k = _dims(key, column, 0, k_n, real, D, DIMS)
    score = tl.dot(q, tl.trans(k), input_precision="ieee")
    if DIMS < DIM:
        for dim in range(DIMS, DIM, DIMS):
            more = _signed(query, at, dim, q_n, sign, D, DIMS)
            k = _dims(key, column, dim, k_n, real, D, DIMS)
            score = tl.dot(more, tl.trans(k), score, input_precision="ieee")
    if cut:
        seen = (column[None, :] >= begin[:, None]) & (column[None, :] < end[:, None])
        if HOLES:
            where = at[:, None].to(tl.int64) * m_q + column[None, :].to(tl.int64) * m_k
            seen = tl.load(mask + where, mask=seen, other=0) != 0
        score = tl.where(seen, score, -float("inf"))
    return score
