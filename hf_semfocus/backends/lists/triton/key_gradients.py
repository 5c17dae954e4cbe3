"""Gradients of the keys and values: sums of what every entry that points to a key gives it, in a fixed order.

The entries are sorted by key. A program takes a few keys and their runs of entries; the run of a key that many queries
keep is cut into chunks, which other programs take, and whose sums are added by the same kernel.

Tested in Triton's interpreter and compiled ahead of time, not yet measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .common import drop, gathered_tile, place, vectors

# Steps that a program of the keys' gradients takes over the entries of one key; the rest is for other programs. With
# eight entries a step, a key of 64k entries takes 64 steps and 16 to add the parts.
CHUNK_STEPS = 64
# Entries of a key at a time, at least.
LEAST_RUN = 8


def sum_by_key(
    saved: tuple[Tensor, ...],
    key: Tensor,
    value: Tensor,
    index: Tensor,
    settings: tuple[Any, ...],
    strides: tuple[int, ...],
    constants: dict[str, int | bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of the keys and values."""
    batch, kv_heads, keys, head_dim = key.shape
    total = batch * kv_heads * keys
    # number of the key every entry points to, counted through batch and heads; last what points to none
    column = index.unflatten(1, (kv_heads, -1)).flatten(2).flatten(0, 1)
    first = torch.arange(0, total, keys, device=index.device, dtype=torch.int32).view(-1, 1)
    number, order = torch.where(column < 0, total, first + column).flatten().sort(stable=True)
    begin = torch.searchsorted(number, torch.arange(total + 1, device=index.device, dtype=number.dtype))
    entries = index.numel()
    rows, at_a_time = gathered_tile(max(LEAST_RUN, entries // max(1, total)), head_dim, value.shape[-1])

    def gather(start: Tensor, end: Tensor, parts: Sequence[Tensor | None], dtype: torch.dtype | None = None) -> Any:
        runs = len(start)
        sums = [tensor.new_empty((runs, tensor.shape[-1]), dtype=dtype) for tensor in (key, value)]
        _gather[(triton.cdiv(runs, rows),)](
            *saved, order, start, end, *parts, *sums, *settings, runs, *strides, **constants, R=rows, E=at_a_time,
            num_warps=4,
        )  # fmt: skip
        return sums

    parts: Sequence[Tensor | None] = (None, None, None)
    start, end, more, chunk_start, chunk_end = chunks(begin, entries, CHUNK_STEPS * at_a_time)
    if len(chunk_start):
        parts = more, *gather(chunk_start, chunk_end, parts, torch.float32)
    grad_key, grad_value = gather(start, end, parts)
    return grad_key.view(key.shape), grad_value.view(value.shape)


def chunks(begin: Tensor, entries: int, size: int) -> tuple[Tensor, ...]:
    """Cut the runs ``begin[i]:begin[i + 1]`` into a first part and chunks, each of at most ``size`` entries.

    Sizes of the results do not depend on data, so nothing synchronizes with the device.

    Args:
        begin: int64 ``[runs + 1]``, increasing.
        entries: upper limit of its last number.
        size: entries of a chunk.

    Returns:
        ``(start, end, more, chunk_start, chunk_end)``: the first part of every run, int64 ``[runs]``; which chunks
        the rest of run ``i`` is, ``more[i]:more[i + 1]``; and the entries of every chunk, some of the last empty,
        int64 ``[entries // size]``.
    """
    start, end = begin[:-1], begin[1:]
    more = F.pad(torch.cumsum((end - start - 1).clamp(min=0) // size, 0), (1, 0))
    number = torch.arange(entries // size, device=begin.device)
    # beyond the last chunk the run is past the end, where nothing is left
    run = torch.searchsorted(more[1:], number, right=True).clamp(max=len(start) - 1)
    chunk_start = torch.minimum(start[run] + (number - more[run] + 1) * size, end[run])
    return start, torch.minimum(start + size, end), more, chunk_start, torch.minimum(chunk_start + size, end[run])


@triton.jit
def _gather(
    query, grad, weights, grad_weights, deltas, order, starts, ends, more, parts_key, parts_value,
    sums_key, sums_value, scale, dropout_p, seed, rows, heads, groups, queries, runs,
    q_b, q_h, q_n, g_b, g_h, g_n,
    K: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, V: tl.constexpr, VDIM: tl.constexpr,
    DROPOUT: tl.constexpr, R: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """What the entries ``order[start:end]`` give their key and value, for ``R`` runs of entries of one key each.

    With ``more`` the parts ``more[i]:more[i + 1]`` are added to run ``i``.
    """
    run = tl.program_id(0) * R + tl.arange(0, R)
    real = run < runs
    start = tl.load(starts + run, mask=real, other=0)
    end = tl.load(ends + run, mask=real, other=0)
    sum_key = tl.zeros([R, DIM], tl.float32)
    sum_value = tl.zeros([R, VDIM], tl.float32)
    for first in range(0, tl.max(end - start, 0), E):
        at = start[:, None] + first + tl.arange(0, E)[None, :]
        used = at < end[:, None]
        entry = tl.load(order + at, mask=used, other=0)
        row = (entry // K).to(tl.int32)
        batch, head, _, number = place(row, heads, groups, queries)
        weight = tl.load(weights + entry, mask=used, other=0.0)
        delta = tl.load(deltas + row, mask=used, other=0.0)
        grad_score = weight * (tl.load(grad_weights + entry, mask=used, other=0.0) - delta) * scale
        q = vectors(query + batch * q_b + head * q_h + number * q_n, used, D, DIM)
        sum_key += tl.sum(grad_score[:, :, None] * q, 1)
        g = vectors(grad + batch * g_b + head * g_h + number * g_n, used, V, VDIM)
        sum_value += tl.sum(drop(weight, entry, dropout_p, seed, DROPOUT)[:, :, None] * g, 1)
    if more is not None:
        start = tl.load(more + run, mask=real, other=0)
        end = tl.load(more + run + 1, mask=real, other=0)
        for first in range(0, tl.max(end - start, 0), E):
            at = start[:, None] + first + tl.arange(0, E)[None, :]
            used = at < end[:, None]
            sum_key += tl.sum(vectors(parts_key + at * D, used, D, DIM), 1)
            sum_value += tl.sum(vectors(parts_value + at * V, used, V, VDIM), 1)
    dim = tl.arange(0, DIM)
    where = run[:, None].to(tl.int64) * D + dim[None, :]
    tl.store(sums_key + where, sum_key.to(sums_key.dtype.element_ty), mask=real[:, None] & (dim < D)[None, :])
    dim = tl.arange(0, VDIM)
    where = run[:, None].to(tl.int64) * V + dim[None, :]
    tl.store(sums_value + where, sum_value.to(sums_value.dtype.element_ty), mask=real[:, None] & (dim < V)[None, :])
