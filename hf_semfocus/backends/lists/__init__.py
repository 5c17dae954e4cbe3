"""Lists of keys: the columns every query keeps, from which sparse back ends work in O(n k).

A list is an integer tensor ``[batch, heads, queries, slots]`` of key columns, -1 where a query keeps fewer than
``slots`` keys; batch and heads are 1 where all share it. Static patterns make their lists from the positions within
their reach, without looking at the others; queries that see all keys have empty lists, see :mod:`.wide`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...attention.positions import Positions
from ...attention.problem import Problem
from ...attention.selection import highest_index
from ...mechanisms import Mechanism
from .. import tracing
from ..memo import once_per_mask

# Scores of one chunk: 16 MiB in float32, large enough for the matrix product, small enough to be reused.
CHUNK_SCORES = 1 << 22


def objections(mechanism: Mechanism, problem: Problem) -> list[str]:
    """Why ``mechanism`` has no lists for ``problem``; empty if it has."""
    if found := tracing.objections(problem):
        return found
    if type(mechanism).normalize is not Mechanism.normalize:
        return [f"{mechanism.name} makes weights of scores in its own way, not by softmax"]
    if 0 in problem.shape:
        return ["there is nothing to attend"]
    if not mechanism.selects and mechanism.reach(first(problem)) is None:
        return [f"{mechanism.spec} lets a query keep any number of keys"]
    return []


def make(mechanism: Mechanism, problem: Problem, chunk_scores: int = CHUNK_SCORES) -> Tensor:
    """The lists of ``mechanism``, int32; ``chunk_scores`` bounds the scores held at a time."""
    with torch.no_grad():
        if not mechanism.selects:
            return _static(mechanism, problem)
        picked = [_pick(mechanism, chunk) for chunk in chunks(problem, chunk_scores)]
        return torch.cat(picked, 2)


def chunks(problem: Problem, chunk_scores: int) -> Iterator[Problem]:
    """``problem`` in runs of queries that have at most ``chunk_scores`` scores, or one query."""
    batch, heads, queries, keys = problem.shape
    step = max(1, chunk_scores // max(1, batch * heads * keys))
    for start in range(0, queries, step):
        yield problem.rows(start, min(start + step, queries))


def take(bias: Tensor, index: Tensor) -> Tensor:
    """``bias`` at the lists ``[batch, heads, queries, slots]``, 0 where absent; never expands the bias."""
    bias = bias.view((1,) * (4 - bias.dim()) + bias.shape)
    where = [
        torch.arange(size, device=bias.device).view([-1 if d == axis else 1 for d in range(4)])
        * (bias.shape[axis] > 1)
        for axis, size in enumerate(index.shape[:3])
    ]
    column = index.clamp(min=0).long() if bias.shape[-1] > 1 else torch.zeros_like(index, dtype=torch.long)
    return bias[(*where, column)].masked_fill(index < 0, 0.0)


def _pick(mechanism: Mechanism, chunk: Problem) -> Tensor:
    """The ``k`` keys of highest priority of a chunk's queries."""
    scores, allowed = chunk.scores(), chunk.allowed
    at = chunk.positions() if mechanism.positional else None
    if (pattern := mechanism.kept_by_position(at)) is not None:
        allowed = allowed & pattern
    index, kept = highest_index(mechanism.ranked(scores, at), allowed, mechanism.k)
    return index.masked_fill(~kept, -1).int()


def longest(mechanism: Mechanism, problem: Problem) -> int:
    """How many keys a list of ``mechanism`` can hold, however large its parameters are."""
    keys = problem.shape[3]
    if mechanism.selects:
        return min(mechanism.k, keys)
    at = first(problem)
    at = at._replace(query=at.query + keys - 1, key=at.key + keys - 1, length=at.length + keys - 1)
    return min(mechanism.reach(at).shape[-1], keys)


def first(problem: Problem) -> Positions:
    """Positions of a problem of one query and one key, to ask a mechanism what it can do."""
    one = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=problem.query.device)
    return Positions(one, one, one + 1, one, problem.layer, problem.visibility.causal)


@once_per_mask(remembered=8)
def _static(mechanism: Mechanism, problem: Problem) -> Tensor:
    """The lists of a static pattern: of the positions within reach, those that the pattern keeps, in order."""
    at = problem.positions()
    near = mechanism.reach(at).sort(-1).values
    if not near.shape[-1]:  # no query sees a key
        near = near.new_full((*near.shape[:-1], 1), -1)
    keep = (near >= 0) & (near < at.length) & mechanism.kept_by_position(at._replace(key=near))
    keep[..., 1:] &= near[..., 1:] != near[..., :-1]
    if (wide := mechanism.sees_all(at)) is not None:
        keep &= ~wide
    columns = near if problem.visibility.mask is None else _columns(at.key, near)
    absent = problem.shape[3]
    slots = max(1, int(keep.sum(-1).max()))
    columns = columns.masked_fill(~keep, absent).sort(-1).values[..., :slots]
    columns = columns.masked_fill(columns == absent, -1).int()
    return columns.expand(*columns.shape[:2], problem.shape[2], slots).contiguous()


def _columns(ranks: Tensor, near: Tensor) -> Tensor:
    """The column of each position in ``near``: the first whose rank, among the keys its query may see, reaches it."""
    shape = (*torch.broadcast_shapes(ranks.shape[:2], near.shape[:2]), max(ranks.shape[2], near.shape[2]))
    near = near.expand(*shape, -1)
    if ranks.shape[2] > 1:
        return torch.searchsorted(ranks.expand(*shape, -1).contiguous(), near.to(ranks.dtype).contiguous())
    rows = near.flatten(2).to(ranks.dtype)
    return torch.searchsorted(ranks.squeeze(2).expand(*shape[:2], -1).contiguous(), rows).view(near.shape)
