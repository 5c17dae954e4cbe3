"""The softmax of lists of keys in PyTorch, for kernels that only find the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from ...attention.problem import Problem
from ..chunked import chunks


def with_softmax(problem: Problem, index: Tensor, sign: int) -> tuple[Tensor, Tensor, Tensor]:
    """What ``select`` of :class:`hf_semfocus.backends.lists.Kernels` returns with ``softmax``.

    Args:
        problem: one without a bias and a softcap.
        index: lists ``[batch, heads, queries, slots]`` of the highest ``sign * scores``.
        sign: 1 or -1.
    """
    batch, heads, _, keys = problem.shape
    index = index.masked_fill(index < 0, keys).sort(-1).values
    index = index.masked_fill(index == keys, -1)
    gathered = -(
        -index.shape[3] * problem.query.shape[3] // max(1, keys)
    )  # rows of scores that gathered keys are worth
    scores, totals, start = [], [], 0
    for part in chunks(problem, batch * heads * max(1, gathered)):
        listed = index[:, :, start : (start := start + part.shape[2])]
        column = listed.clamp(min=0).long().flatten(2).unsqueeze(-1).expand(-1, -1, -1, problem.key.shape[3])
        found = part.repeat_heads(part.key).gather(2, column).unflatten(2, listed.shape[2:])
        query = part.query.to(part.compute_dtype) * part.scale
        scores.append((found @ query.unsqueeze(-1)).squeeze(-1).masked_fill(listed < 0, -torch.inf))
        everything = (sign * part.scores()).masked_fill(~part.allowed, -torch.inf)
        highest = everything.amax(-1, keepdim=True).clamp(min=torch.finfo(everything.dtype).min)
        totals.append((everything - highest).exp().sum(-1, keepdim=True))
    return index, torch.cat(scores, 2), torch.cat(totals, 2)
