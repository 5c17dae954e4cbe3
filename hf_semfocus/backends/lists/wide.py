"""Queries that keep any number of keys, such as global tokens, beside those that have lists.

They are few, so they are computed by the formula, and their rows inserted into the output.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...attention.problem import Problem
from ...attention.visibility import Visibility
from ...mechanisms import Mechanism
from .. import chunked


class WideRows(NamedTuple):
    """The queries of every sequence that see all keys, filled up with others where a sequence has fewer.

    Attributes:
        number: indices of the queries, int64 ``[batch, 1 or heads, rows, 1]``.
        wanted: which of them see all keys, bool of the same shape.
    """

    number: Tensor
    wanted: Tensor


def rows(sees_all: Tensor, problem: Problem) -> WideRows | None:
    """Indices of the queries that ``sees_all`` marks, bool ``[..., queries, 1]``; None if it marks none."""
    batch, _, queries, _ = problem.shape
    sees_all = sees_all.expand(batch, -1, queries, 1)
    if not (most := int(sees_all.sum(2).max())):
        return None
    number = sees_all.int().topk(most, 2).indices.sort(2).values
    return WideRows(number, sees_all.gather(2, number))


def fill(problem: Problem, rows: WideRows, output: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Insert the rows of the queries that see all keys into ``output``, and into ``weights`` if given."""
    number, bias, device = rows.number, problem.bias, output.device
    full = replace(
        problem,
        query=_take(problem.query, number),
        visibility=Visibility(_take(problem.allowed, number), None, False, number.shape[2], device),
        bias=None if bias is None else _take(bias.view((1,) * (4 - bias.dim()) + bias.shape), number),
    )
    found = chunked.attend(Mechanism(), full, weights is not None)
    filled = [
        None if whole is None else _put(whole, rows, part.to(whole.dtype))
        for whole, part in zip((output, weights), found, strict=True)
    ]
    return filled[0], filled[1]


def _take(tensor: Tensor, number: Tensor) -> Tensor:
    """Rows of every sequence, from a tensor that may be broadcast over rows, sequences and heads."""
    if tensor.shape[2] == 1:
        return tensor
    heads = max(tensor.shape[1], number.shape[1])
    tensor = tensor.expand(number.shape[0], heads, -1, -1)
    return tensor.gather(2, number.expand(-1, heads, -1, tensor.shape[3]))


def _put(whole: Tensor, rows: WideRows, part: Tensor) -> Tensor:
    where = rows.number.expand(-1, whole.shape[1], -1, whole.shape[3])
    return whole.scatter(2, where, torch.where(rows.wanted, part, whole.gather(2, where)))
