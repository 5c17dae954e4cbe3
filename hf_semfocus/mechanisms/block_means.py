"""Selection of blocks without a matrix of scores: the keys of a block, added up, are one key of a smaller problem.

The mean score of a block is that of its mean key, where nothing but the product of query and key is in the scores.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..attention.positions import Positions
from ..attention.problem import Problem
from ..attention.visibility import Visibility
from .select import Select


def fits(problem: Problem) -> bool:
    """Whether mean keys have the mean scores, and all queries of a sequence the same blocks."""
    mask = problem.visibility.mask
    plain = problem.bias is None and problem.softcap is None
    return plain and (mask is None or (mask.shape[1] == 1 and mask.shape[2] == 1))


def find_blocks(problem: Problem, k: int, size: int, select: Select) -> Tensor:
    """The keys of every query's own block, and of the ``k - 1`` others of highest mean score.

    Args:
        problem: one that :func:`fits`.
        k: blocks of a query.
        size: positions of a block.
        select: of a set of kernels.

    Returns: lists of columns, int32 ``[batch, heads, queries, k * size]`` or fewer, -1 in empty slots.
    """
    seen, (batch, heads, queries, keys) = problem.visibility, problem.shape
    size = min(size, max(1, keys))
    at = replace(problem, visibility=replace(seen, causal=False)).positions()  # of all keys but the padding
    number, blocks = torch.arange(-(-keys // size), device=problem.query.device), -(-keys // size)
    own = at.query.clamp(min=0) // size
    chosen = own.expand(batch, heads, queries, 1)
    if k > 1:
        others = number < own if seen.causal else (number != own) & (number * size < at.length)
        summed = replace(
            problem,
            query=problem.query.to(problem.compute_dtype),
            key=_sums(problem, at, size, blocks),
            visibility=Visibility(others, None, False, queries, own.device),
        )
        best = select(summed, min(k - 1, blocks), 1)
        chosen = torch.cat([chosen.to(best.dtype), best], -1)
    position = (chosen.unsqueeze(-1) * size + torch.arange(size, device=own.device)).flatten(-2)
    held = (position >= 0) & (position < at.length)
    position = position.clamp(0, keys - 1)
    if seen.mask is not None:  # the columns of the visible keys, in order
        column = (~seen.mask).int().argsort(dim=-1, stable=True)
        position = column.expand(batch, heads, queries, -1).gather(-1, position.long())
    if (limit := seen.limit) is not None:
        held &= position <= limit.unsqueeze(-1)
    return position.masked_fill(~held, -1).int()


def _sums(problem: Problem, at: Positions, size: int, blocks: int) -> Tensor:
    """The sums of the keys of the blocks, ``[batch, kv_heads, blocks, head_dim]``, times factors that equate means.

    Only the last block may have fewer keys than ``size``. Whole numbers as factors keep equal means equal.
    """
    key, mask = problem.key.to(problem.compute_dtype), problem.visibility.mask
    if mask is not None:
        key = key.masked_fill(~mask.mT, 0.0)
    block = (at.key.mT.clamp(min=0) // size).long().expand(key.shape)
    sums = key.new_zeros(*key.shape[:2], blocks, key.shape[-1]).scatter_add(2, block, key)
    last = (at.length - 1).clamp(min=0) % size + 1
    number = torch.arange(blocks, device=key.device).view(-1, 1)
    factor = torch.where((number + 1) * size <= at.length[..., -1:, :], last[..., -1:, :], size)
    return sums * (factor / 2.0 ** (size * size - 1).bit_length())
