"""Attention in chunks of queries: the reference on each chunk, recomputed in the backward pass.

Computes every mechanism without a full score matrix, forward or backward: saved state is O(n d).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..attention.problem import Problem
from ..mechanisms import Mechanism
from . import eager
from .limits import Limits

LIMITS = Limits(traceable=True, recomputes=True)

# Scores of one chunk: 16 MiB in float32, large enough for the matrix product, small enough to be reused.
CHUNK_SCORES = 1 << 22


def attend(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
    """See :func:`hf_semfocus.backends.attend`."""

    def run(chunk: Problem) -> tuple[Tensor, Tensor | None]:
        if torch.is_grad_enabled():
            return checkpoint(eager.attend, mechanism, chunk, return_weights, use_reentrant=False)
        return eager.attend(mechanism, chunk, return_weights)

    outputs, weights = zip(*map(run, chunks(problem)), strict=True)
    return torch.cat(outputs, 2), torch.cat(weights, 2) if return_weights else None


def chunks(problem: Problem, planes: int | None = None) -> Iterator[Problem]:
    """``problem`` in chunks of queries with at most ``CHUNK_SCORES`` scores, or one query each.

    ``planes`` is the number of matrices ``[queries, keys]`` that are computed: ``batch * heads`` by default.
    """
    batch, heads, queries, keys = problem.shape
    step = max(1, CHUNK_SCORES // max(1, (batch * heads if planes is None else planes) * keys))
    for start in range(0, queries, step):
        yield problem.rows(start, min(start + step, queries))
