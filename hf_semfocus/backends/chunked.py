"""Attention in chunks of queries: never holds a full score matrix, forward or backward.

A mechanism that selects by score finds its keys chunk by chunk without a graph, then works on the k gathered
keys per query alone: saved state is O(n k). Any other mechanism runs the reference on each chunk and recomputes
it in the backward pass: saved state is O(n d).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..mechanisms import Mechanism
from ..problem import Problem
from ..selection import highest_index
from . import eager, gather

# Scores of one chunk: 16 MiB in float32, large enough for the matrix product, small enough to be reused.
CHUNK_SCORES = 1 << 22


def attend(
    mechanism: Mechanism, problem: Problem, return_weights: bool = False, chunk_scores: int = CHUNK_SCORES
) -> tuple[Tensor, Tensor | None]:
    """See :func:`hf_semfocus.backends.attend`; ``chunk_scores`` bounds the scores held at a time."""
    if not problem.shape[2]:
        return eager.attend(mechanism, problem, return_weights)
    by_index = mechanism.selects and type(mechanism).normalize is Mechanism.normalize
    return (_selected if by_index else _recomputed)(mechanism, problem, return_weights, chunk_scores)


def _chunks(problem: Problem, chunk_scores: int) -> Iterator[Problem]:
    batch, heads, queries, keys = problem.shape
    step = max(1, chunk_scores // max(1, batch * heads * keys))
    for start in range(0, queries, step):
        yield problem.rows(start, min(start + step, queries))


def _recomputed(
    mechanism: Mechanism, problem: Problem, return_weights: bool, chunk_scores: int
) -> tuple[Tensor, Tensor | None]:
    def run(chunk: Problem) -> tuple[Tensor, Tensor | None]:
        if torch.is_grad_enabled():
            return checkpoint(eager.attend, mechanism, chunk, return_weights, use_reentrant=False)
        return eager.attend(mechanism, chunk, return_weights)

    outputs, weights = zip(*map(run, _chunks(problem, chunk_scores)), strict=True)
    return torch.cat(outputs, 2), torch.cat(weights, 2) if return_weights else None


def _selected(
    mechanism: Mechanism, problem: Problem, return_weights: bool, chunk_scores: int
) -> tuple[Tensor, Tensor | None]:
    batch, heads, queries, keys = problem.shape
    with torch.no_grad():
        picked = [_pick(mechanism, chunk) for chunk in _chunks(problem, chunk_scores)]
    index, kept = (torch.cat(part, 2) for part in zip(*picked, strict=True))
    k = index.shape[-1]
    # one table of rows for all heads: row (b, h, j) of the keys is number (b * heads + h) * keys + j
    offset = torch.arange(batch * heads, device=index.device).view(batch, heads, 1, 1) * keys
    rows = (index + offset).view(-1, k)

    query = problem.query.to(problem.compute_dtype) * problem.scale
    scores = gather.dot(query.flatten(0, 2), problem.repeat_heads(problem.key).flatten(0, 2), rows)
    bias = None if problem.bias is None else _take(problem.bias, index)
    scores = problem.adjust(scores.view(batch, heads, queries, k), bias)
    weights = eager.weigh(mechanism, scores, kept, problem.sinks)
    dropped = F.dropout(weights, problem.dropout_p).view(-1, k)
    output = gather.mix(dropped, problem.repeat_heads(problem.value).flatten(0, 2), rows)
    full = weights.new_zeros(problem.shape).scatter_add(-1, index, weights) if return_weights else None
    return output.view(batch, heads, queries, -1), full


def _pick(mechanism: Mechanism, chunk: Problem) -> tuple[Tensor, Tensor]:
    """Indices of the keys the chunk's queries keep, and which entries are real: ``[..., queries, k]``."""
    scores, allowed = chunk.scores(), chunk.allowed
    at = chunk.positions() if mechanism.positional else None
    if (pattern := mechanism.pattern(at)) is not None:
        allowed = allowed & pattern
    return highest_index(mechanism.priority(scores, at), allowed, mechanism.k)


def _take(bias: Tensor, index: Tensor) -> Tensor:
    """``bias`` at ``index``, without expanding the dimensions over which it is broadcast."""
    bias = bias.view((1,) * (4 - bias.dim()) + bias.shape)
    where = [
        torch.arange(size, device=bias.device).view([-1 if d == axis else 1 for d in range(4)])
        * (bias.shape[axis] > 1)
        for axis, size in enumerate(index.shape[:3])
    ]
    return bias[(*where, index if bias.shape[-1] > 1 else torch.zeros_like(index))]
