"""What the selecting and the attending kernels share: padded sizes, and gathers of whole vectors."""

from __future__ import annotations

import triton
import triton.language as tl

# Elements of a gathered tile: 32 vectors of 64 dimensions are 16 registers per thread on four warps. With twice as
# many, the keys' gradients take 219 registers, and two programs fill a multiprocessor: too few to hide the gathers.
TILE_ELEMENTS = 2048
# Elements of a tile of numbers, not vectors: four rows of 128 give each of four warps one row, four numbers a thread.
ROW_ELEMENTS = 512


def padded(size: int) -> int:
    """The next power of two that tensor cores can multiply by."""
    return max(16, triton.next_power_of_2(size))


def gathered_tile(entries: int, *dims: int) -> tuple[int, int]:
    """How many rows a gathering program takes, and how many of their ``entries`` vectors at a time."""
    widest = max(map(padded, dims))
    at_a_time = min(triton.next_power_of_2(entries), max(1, TILE_ELEMENTS // widest))
    return max(1, TILE_ELEMENTS // (widest * at_a_time)), at_a_time


def rows_of(width: int) -> int:
    """How many rows of ``width`` numbers a program takes."""
    return max(1, ROW_ELEMENTS // width)


@triton.jit
def place(row, heads, groups, queries):
    """Batch, head, key head and query of the ``row``-th query counted through batch and heads, in int64."""
    batch = row // queries // heads
    head = row // queries % heads
    return batch.to(tl.int64), head.to(tl.int64), (head // groups).to(tl.int64), (row % queries).to(tl.int64)


@triton.jit
def vectors(pointers, real, D: tl.constexpr, DIM: tl.constexpr):
    """The vectors of ``D`` numbers at ``pointers``, zeros where not ``real``: float32 ``[..., DIM]``."""
    dim = tl.arange(0, DIM)
    real = tl.expand_dims(real, -1) & (dim < D)
    return tl.load(tl.expand_dims(pointers, -1) + dim, mask=real, other=0.0).to(tl.float32)


@triton.jit
def drop(weight, entry, dropout_p, seed, DROPOUT: tl.constexpr):
    """Dropout of the weights (or their gradients) of these entries, the same in every call."""
    if DROPOUT:
        weight = tl.where(tl.rand(tl.load(seed), entry) >= dropout_p, weight / (1 - dropout_p), 0.0)
    return weight
