"""Which k keys every query keeps, found without ever holding a row of scores.

The scores ``q k^T`` of a tile of queries are computed twice, tile of keys by tile of keys, because with tensor cores
that is cheaper than storing them, and than any bookkeeping beyond a few operations per score:

1. :mod:`.candidates` finds a bound of the k-th highest score and lists what reaches it. With G groups a row has about
   ``G ln(G / (G - k))`` candidates: 1.15 k for G = 4 k, 1.4 k for G = 2 k. The list holds at least 2 k.
2. :mod:`.exact` lists those of rows that would not fit (mass ties, k near or beyond G, NaN), in a third pass.
3. :mod:`.choosing` computes the candidates' scores once more, from gathered keys, and takes the k highest, of equal
   ones the later columns (see :mod:`hf_semfocus.attention.selection`).

The computations of a score may round differently, so of scores that differ by less than their rounding either may be
kept, as between any two implementations. Equal keys have equal scores in each.

Tested in Triton's interpreter and compiled ahead of time, not yet measured on a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ....attention.problem import Problem
from .candidates import collect
from .choosing import choose, score_candidates
from .common import gathered_tile, padded, rows_of
from .exact import recollect
from .spans import spans_of

# Words of marks from which a program lists columns at a time: 8 in a thread of 8 warps.
LISTED = 2048
# Marks, candidates and their scores of the heads that are worked on at a time, unless one head needs more: 256 MiB.
BUFFER_WORDS = 1 << 26


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

    @property
    def constants(self) -> dict[str, int]:
        """What the kernels are compiled for."""
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return {"M": self.rows, "N": self.columns, "DIMS": self.dims, **options}


def tile_for(k: int, queries: int, head_dim: int, element_size: int) -> Tile:
    """Sizes for Hopper, chosen by arithmetic.

    At least 2 k groups where registers allow: maxima (or words) and scores are 32-bit tiles in registers, and 128 x
    128 or 64 x 256 on 8 warps is 64 + 64 registers per thread and fills the ``wgmma`` of two warpgroups. A tile of
    keys takes at most 32 KiB, so that two in flight and the queries also fit the 99 KiB of smaller chips. Float32 is
    multiplied without tensor cores, in unrolled code, so it gets smaller tiles.
    """
    columns = 128 if k <= 64 else 256
    rows = 16 if queries <= 16 else 64 if columns == 256 or element_size > 2 else 128
    return Tile(rows, columns, _dims(columns, head_dim, element_size), 4 if rows == 16 else 8, 2)


def _dims(columns: int, head_dim: int, element_size: int) -> int:
    return min(32 if element_size > 2 else (32 << 10) // (columns * element_size), padded(head_dim))


def exact_tile_for(k: int, head_dim: int, element_size: int) -> Tile:
    """Few rows, as rows that do not fit may be rare; pairs (score, column) take 64 bits."""
    columns = max(64, padded(k))
    return Tile(16, columns, _dims(columns, head_dim, element_size), max(4, columns // 32), 1)


def select(problem: Problem, k: int, sign: int) -> Tensor:
    """Columns of the ``k`` visible keys with the highest ``sign * score`` of every query, in no particular order.

    The last dimension of query and key must be contiguous. Beyond the result it allocates 256 MiB at most, or what one
    head needs if that is more: per query ``8 k + 512`` words; and three words per row of the mask.

    Returns:
        int32 ``[batch, heads, queries, k]``; -1 at the end where a query sees fewer keys.
    """
    query, key, scale, seen = problem.query, problem.key, problem.scale, problem.visibility
    (batch, heads, queries, keys), head_dim = problem.shape, query.shape[-1]
    capacity = padded(2 * k)
    tile = tile_for(k, queries, head_dim, query.element_size())
    again = exact_tile_for(k, head_dim, query.element_size())
    tiles = triton.cdiv(queries, tile.rows)
    words_per_head = queries * 2 * capacity + tiles * tile.rows * tile.columns
    step = max(1, min(batch * heads, BUFFER_WORDS // max(1, words_per_head)))
    index = query.new_empty((batch * heads, queries, k), dtype=torch.int32)
    words = index.new_empty(step * tiles, tile.rows, tile.columns)
    columns = index.new_empty((step * queries, capacity))
    counts = index.new_empty(step * queries)
    scores = query.new_empty(columns.shape, dtype=torch.float32)

    # the last column that query 0 may see; every further one sees one more
    reach = seen.first if seen.causal and seen.first is not None else keys
    mask, spans, strides = seen.mask, None, 7 * (0,)
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
        spans = spans_of(mask.expand(*mask.shape[:3], keys)).expand(batch, heads, queries, 3)
        mask = mask.view(torch.uint8).expand(batch, heads, queries, keys)
        strides = (*mask.stride(), *spans.stride()[:3])
    # a float, as integers of 1 would be compiled in
    sign = float(sign * ((scale > 0) - (scale < 0)))
    sizes = {"D": head_dim, "DIM": padded(head_dim)}
    passes = (False,) if mask is None else (False, True)
    listed = min(tile.rows, LISTED // tile.columns)
    few, at_a_time = gathered_tile(capacity, head_dim)
    for start in range(0, batch * heads, step):
        count = min(step, batch * heads - start)
        rows = count * queries
        tensors = (query, key, *query.stride()[:3], *key.stride()[:3], start, heads, heads // key.shape[1], queries)
        lists = (*tensors, keys, reach, mask, spans, *strides, sign, k, columns, counts, capacity)
        for holes in passes:
            collect[(count * tiles,)](*lists, words, HOLES=holes, **sizes, **tile.constants, R=listed)
        for holes in passes:
            recollect[(count * triton.cdiv(queries, again.rows),)](*lists, HOLES=holes, **sizes, **again.constants)
        score_candidates[(triton.cdiv(rows, few),)](
            *tensors, sign, columns, counts, scores, rows, CAPACITY=capacity, **sizes, R=few, E=at_a_time, num_warps=4
        )
        choose[(triton.cdiv(rows, rows_of(capacity)),)](
            scores, columns, counts, index[start:], rows, k, CAPACITY=capacity, R=rows_of(capacity), num_warps=4
        )
    return index.view(batch, heads, queries, k)
