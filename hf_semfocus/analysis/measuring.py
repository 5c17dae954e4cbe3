"""Measure one call of an attention function, in chunks of queries: memory is O(chunk * keys)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attention.problem import Problem
from ..backends.chunked import chunks
from ..hf.observe import Call
from ..hf.visibility import is_cross_attention
from ..mechanisms import Mechanism
from .quantities import AttentionQuantity, Rows

Values = dict[tuple[int, str], list[NDArray[np.float64]]]
"""By head and quantity."""


@torch.no_grad()
def measure(call: Call, mechanism: Mechanism, quantities: Sequence[AttentionQuantity]) -> Values:
    """The values of ``quantities`` over all queries and keys that are not padding.

    Args:
        call: what is measured.
        mechanism: says which keys are kept.
        quantities: those that need kept keys make no sense for full attention.

    Returns:
        float64 arrays by head and quantity, for the queries (or keys) of all sequences.
    """
    problem, found = call.problem, defaultdict(list)
    # autocast would turn the float32 scores back into half precision
    with torch.autocast(problem.query.device.type, enabled=False):
        _measure(problem, ~_padding(call), mechanism, quantities, found)
    return found


def _measure(
    problem: Problem, real: Tensor, mechanism: Mechanism, quantities: Sequence[AttentionQuantity], found: Values
) -> None:
    batch, heads, _, keys = problem.shape
    of_queries = [each for each in quantities if not each.is_of_keys]
    of_keys = [each for each in quantities if each.is_of_keys]
    degree = torch.zeros(batch, heads, keys, dtype=torch.int64, device=problem.query.device)
    seen = torch.zeros_like(degree, dtype=torch.bool)
    start = 0
    for chunk in chunks(problem):
        rows, stop = Rows(chunk, mechanism), start + chunk.shape[2]
        counts = real[:, :, start:stop] & (rows.visible_count > 0)
        if of_queries:
            values = torch.stack([each.function(rows).double() for each in of_queries])
            _add(found, [each.name for each in of_queries], values, counts, problem.heads)
        if of_keys:
            degree += (rows.kept & counts.unsqueeze(-1)).sum(-2)
            seen |= (rows.visible & counts.unsqueeze(-1)).any(-2)
        start = stop
    if of_keys and (k := mechanism.budget(keys)):
        values = torch.stack([each.function(degree.double(), k) for each in of_keys])
        _add(found, [each.name for each in of_keys], values, seen, problem.heads)


def _add(found: Values, names: Sequence[str], values: Tensor, counts: Tensor, heads: tuple[int, ...] | None) -> None:
    """Add the values ``[names, batch, heads, any]`` where ``counts``, and where they are defined."""
    values, counts = values.cpu().numpy(), counts.expand(values.shape[1:]).cpu().numpy()
    for name, mine in zip(names, values, strict=True):
        defined = counts & ~np.isnan(mine)
        for place, head in enumerate(heads or range(mine.shape[1])):
            found[head, name].append(mine[:, place][defined[:, place]])


def _padding(call: Call) -> Tensor:
    """Queries that are padding, as they do not see their own key: bool ``[batch, heads, queries]``, sizes may be 1.

    None is where queries look into another sequence and have no key of their own, or where no query at all sees its
    own, which is not a mask of padding.
    """
    problem = call.problem
    (_, _, queries, keys), who = problem.shape, problem.visibility
    hidden = torch.zeros(1, 1, queries, dtype=torch.bool, device=problem.query.device)
    across = queries > keys or (not who.causal and is_cross_attention(call.module))
    if who.mask is None or across or not queries:
        return hidden
    first = _first(problem) if who.first is None else who.first
    own = torch.arange(first, first + queries, device=hidden.device).clamp(0, keys - 1)
    mask = who.mask.expand(*who.mask.shape[:2], queries, keys)
    sees_itself = mask.gather(-1, own.view(1, 1, -1, 1).expand(*mask.shape[:2], -1, 1)).squeeze(-1)
    return ~sees_itself if sees_itself.any() else hidden


def _first(problem: Problem) -> int:
    """The column of the first query where only the mask knows: the last query sees its own key, in some sequence."""
    *_, queries, keys = problem.shape
    seen = problem.visibility.mask[..., -1, :].flatten(0, -2).any(0).nonzero()
    return 0 if queries == keys or not len(seen) else int(seen.max()) - queries + 1
