"""Lists of keys: the columns every query keeps, for sparse backends in O(n k).

A list is an integer tensor ``[batch, heads, queries, slots]`` of key columns, -1 where a query keeps fewer than
``slots`` keys; batch and heads are 1 where lists are shared. Static patterns make their lists from the positions
within their reach alone; queries that see all keys have empty lists, see :mod:`.wide`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ...attention.problem import Problem
from ...attention.selection import highest_index
from ...attention.tracers import tracer
from ...mechanisms import Mechanism
from ...mechanisms.select import Select
from ..chunked import chunks
from ..memo import once_per_mask
from . import wide


class Lists(NamedTuple):
    """The keys every query keeps.

    Attributes:
        index: the lists, int32.
        dense: the rows that keep every key, whose lists are empty; None if there are none.
    """

    index: Tensor
    dense: wide.WideRows | None = None


def make(mechanism: Mechanism, problem: Problem, select: Select | None = None) -> Lists:
    """The lists of ``mechanism``; of a selection by ``select``, or by all scores of a chunk of queries without."""
    with torch.no_grad():
        if not mechanism.selects:
            return (_static_in_graph if torch.compiler.is_compiling() else _static)(mechanism, problem)
        if select is None:
            index = torch.cat([_pick(mechanism, chunk) for chunk in chunks(problem)], 2)
            sees_all = mechanism.sees_all(problem.positions()) if mechanism.positional else None
            return Lists(index, None if sees_all is None else wide.rows(sees_all, problem))
        if mechanism.static is None:
            return Lists(mechanism.find(problem, select))
        always, dense = make(mechanism.static, problem)
        mask = problem.visibility.mask
        parts = [problem] if torch.compiler.is_compiling() else chunks(problem, 1 if mask is None else mask.shape[0])
        found = torch.cat([mechanism.find(part, select) for part in parts], 2)
        return Lists(torch.cat([always.expand(*found.shape[:3], -1), found], -1), dense)


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
    """The keys that are selected for a chunk's queries."""
    scores, allowed = chunk.scores(), chunk.allowed
    at = chunk.positions() if mechanism.positional else None
    if not mechanism.ranks:
        keep = mechanism.keep(scores, allowed, at).expand(scores.shape)
        if mechanism.positional and (sees_all := mechanism.sees_all(at)) is not None:
            keep = keep & ~sees_all
        keys = scores.shape[-1]  # where a tracer follows, no limit of keys is enforced
        return _columns_of(keep, max(1, mechanism.budget(keys) if tracer() is None else keys))
    if (pattern := mechanism.kept_by_position(at)) is not None:
        allowed = allowed & pattern
    index, kept = highest_index(mechanism.ranked(scores, at), allowed, mechanism.k)
    return index.masked_fill(~kept, -1).int()


def _columns_of(keep: Tensor, slots: int) -> Tensor:
    """The columns ``[..., slots]`` of the kept keys ``[..., keys]``, in order."""
    slot = (keep.cumsum(-1) - 1).masked_fill(~keep, slots)  # an additional slot receives the others
    column = torch.arange(keep.shape[-1], dtype=torch.int32, device=keep.device).expand(keep.shape)
    return column.new_full((*keep.shape[:-1], slots + 1), -1).scatter(-1, slot, column)[..., :slots]


@once_per_mask(remembered=8)
def _static(mechanism: Mechanism, problem: Problem) -> Lists:
    """The lists of a static pattern: of the positions within reach, those that the pattern keeps, in order."""
    columns, sees_all = _kept(mechanism, problem)
    absent = problem.shape[3]
    slots = max(1, int((columns < absent).sum(-1).max()))
    columns = columns.sort(-1).values[..., :slots]
    columns = columns.masked_fill(columns == absent, -1).int()
    index = columns.expand(*columns.shape[:2], problem.shape[2], slots).contiguous()
    return Lists(index, None if sees_all is None else wide.rows(sees_all, problem))


def _static_in_graph(mechanism: Mechanism, problem: Problem) -> Lists:
    """The same with a slot for every position within reach, as sizes in a graph cannot depend on data."""
    columns, _ = _kept(mechanism, problem)
    columns = columns.masked_fill(columns == problem.shape[3], -1).int()
    return Lists(columns.expand(*columns.shape[:2], problem.shape[2], -1).contiguous())


def _kept(mechanism: Mechanism, problem: Problem) -> tuple[Tensor, Tensor | None]:
    """The columns that a static pattern keeps, ``keys`` in the slots of others; and which queries see all keys."""
    at = problem.positions()
    near = mechanism.reach(at).sort(-1).values
    if not near.shape[-1]:  # no query sees a key
        near = near.new_full((*near.shape[:-1], 1), -1)
    keep = (near >= 0) & (near < at.length) & mechanism.kept_by_position(at._replace(key=near))
    keep &= near != functional.pad(near, (1, 0), value=-1)[..., :-1]  # each position once
    if (sees_all := mechanism.sees_all(at)) is not None:
        keep &= ~sees_all
    columns = near if problem.visibility.mask is None else _columns(at.key, near)
    return columns.masked_fill(~keep, problem.shape[3]), sees_all


def _columns(ranks: Tensor, near: Tensor) -> Tensor:
    """The column of each position in ``near``: the first whose rank, among the keys its query may see, reaches it."""
    shape = (*torch.broadcast_shapes(ranks.shape[:2], near.shape[:2]), max(ranks.shape[2], near.shape[2]))
    near = near.expand(*shape, -1)
    if ranks.shape[2] > 1:
        return torch.searchsorted(ranks.expand(*shape, -1).contiguous(), near.to(ranks.dtype).contiguous())
    rows = near.flatten(2).to(ranks.dtype)
    return torch.searchsorted(ranks.squeeze(2).expand(*shape[:2], -1).contiguous(), rows).view(near.shape)
