"""Attention in chunks of queries: the reference on each chunk, recomputed in the backward pass.

Serves every mechanism and never holds a full score matrix, forward or backward: saved state is O(n d).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..attention.problem import Problem
from ..mechanisms import Mechanism
from . import eager, lists, tracing


def objections(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> list[str]:
    """Why chunks cannot compute ``problem``; empty if they can."""
    if torch.is_grad_enabled() and tracing.is_transforming():
        return ["torch.func cannot differentiate what is computed again in the backward pass"]
    return ["there is nothing to attend"] if 0 in problem.shape else []


def attend(
    mechanism: Mechanism, problem: Problem, return_weights: bool = False, chunk_scores: int = lists.CHUNK_SCORES
) -> tuple[Tensor, Tensor | None]:
    """See :func:`hf_semfocus.backends.attend`; ``chunk_scores`` bounds the scores held at a time."""

    def run(chunk: Problem) -> tuple[Tensor, Tensor | None]:
        if torch.is_grad_enabled():
            return checkpoint(eager.attend, mechanism, chunk, return_weights, use_reentrant=False)
        return eager.attend(mechanism, chunk, return_weights)

    outputs, weights = zip(*map(run, lists.chunks(problem, chunk_scores)), strict=True)
    return torch.cat(outputs, 2), torch.cat(weights, 2) if return_weights else None
