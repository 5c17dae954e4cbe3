"""The reference back end: reads like the formula, holds the full score matrix, differentiates by autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.problem import Problem
from ..mechanisms import Mechanism


def objections(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> list[str]:
    """The reference computes everything."""
    return []


def attend(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
    """``dropout(normalize(scores over kept keys)) @ value``; see :func:`hf_semfocus.backends.attend`."""
    problem = problem.blank_unseen()
    scores = problem.scores()
    keep = mechanism.keep(scores, problem.allowed, problem.positions() if mechanism.positional else None)
    weights = weigh(mechanism, scores, keep, problem.sinks)
    output = F.dropout(weights, problem.dropout_p) @ problem.repeat_heads(problem.value)
    return output, weights if return_weights else None


def weigh(mechanism: Mechanism, scores: Tensor, keep: Tensor, sinks: Tensor | None) -> Tensor:
    """Weights of the kept scores, with one sink logit per head beside them if there are sinks."""
    if sinks is None:
        return mechanism.normalize(scores, keep)
    sink = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    keep = torch.cat([keep.expand(scores.shape), torch.ones_like(sink, dtype=torch.bool)], -1)
    return mechanism.normalize(torch.cat([scores, sink], -1), keep)[..., :-1]
