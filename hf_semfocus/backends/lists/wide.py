"""Queries that keep any number of keys, such as global tokens, beside those that have lists.

They are few, so they are computed by the formula, and their rows put among the others.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...attention.problem import Problem
from ...attention.visibility import Visibility
from ...mechanisms import Mechanism
from .. import chunked, lists


def fill(
    mechanism: Mechanism, problem: Problem, output: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Put the rows of the queries that see all keys into ``output``, and into ``weights`` if there are any."""
    # most patterns have none, which costs no look at the mask
    if mechanism.sees_all(lists.first(problem)) is None:
        return output, weights
    wide = mechanism.sees_all(problem.positions())
    batch, _, queries, _ = problem.shape
    wide = wide.expand(batch, -1, queries, 1)
    if not (most := int(wide.sum(2).max())):
        return output, weights
    # as many rows of every sequence; those beyond its own are left as they are
    rows = wide.int().topk(most, 2).indices.sort(2).values
    wanted = wide.gather(2, rows)
    full = replace(
        problem,
        query=_take(problem.query, rows),
        visibility=Visibility(_take(problem.allowed, rows), None, False, most, wide.device),
        bias=None if problem.bias is None else _take(_of_four(problem.bias), rows),
    )
    found = chunked.attend(Mechanism(), full, weights is not None)
    filled = [
        None if whole is None else _put(whole, rows, wanted, part.to(whole.dtype))
        for whole, part in zip((output, weights), found, strict=True)
    ]
    return filled[0], filled[1]


def _of_four(tensor: Tensor) -> Tensor:
    return tensor.view((1,) * (4 - tensor.dim()) + tensor.shape)


def _take(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows of every sequence, of a tensor that may be the same for all rows, sequences and heads."""
    if tensor.shape[2] == 1:
        return tensor
    heads = max(tensor.shape[1], rows.shape[1])
    tensor = tensor.expand(rows.shape[0], heads, -1, -1)
    return tensor.gather(2, rows.expand(-1, heads, -1, tensor.shape[3]))


def _put(whole: Tensor, rows: Tensor, wanted: Tensor, part: Tensor) -> Tensor:
    where = rows.expand(-1, whole.shape[1], -1, whole.shape[3])
    return whole.scatter(2, where, torch.where(wanted, part, whole.gather(2, where)))
