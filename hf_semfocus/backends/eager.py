"""The reference backend: the formula with the full score matrix, differentiated by autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.problem import Problem
from ..mechanisms import Mechanism
from ..mechanisms.base import STRAIGHT_THROUGH
from .limits import Limits

LIMITS = Limits(traceable=True, empty=True)


def attend(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
    """``dropout(normalize(scores over kept keys)) @ value``; see :func:`hf_semfocus.backends.attend`."""
    problem = problem.blank_unseen()
    scores = problem.scores()
    at = problem.positions() if mechanism.positional else None
    keep, priority = mechanism.select(scores, problem.allowed, at)
    if mechanism.gradient == STRAIGHT_THROUGH and torch.is_grad_enabled():
        dense = weigh(Mechanism(), scores, problem.allowed, problem.sinks)
        with torch.no_grad():
            weights = weigh(mechanism, scores, keep, problem.sinks)
        weights = weights + (dense - dense.detach())  # adds exact zeros that have the gradient of dense
    else:
        weights = weigh(mechanism, scores, keep, problem.sinks, priority)
    output = _mix(F.dropout(weights, problem.dropout_p), problem.repeat_heads(problem.value))
    return output, weights if return_weights else None


def weigh(
    mechanism: Mechanism, scores: Tensor, keep: Tensor, sinks: Tensor | None, priority: Tensor | None = None
) -> Tensor:
    """Weights of the kept scores, with the sink logit of each head in the softmax if there are sinks."""
    extra = () if priority is None else (priority,)
    if sinks is None:
        return mechanism.normalize(scores, keep, *extra)
    sink = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    keep = torch.cat([keep.expand(scores.shape), torch.ones_like(sink, dtype=torch.bool)], -1)
    scores, *extra = (torch.cat([each, sink], -1) for each in (scores, *extra))
    return mechanism.normalize(scores, keep, *extra)[..., :-1]


def _mix(weights: Tensor, value: Tensor) -> Tensor:
    """``weights @ value``, where 0 times NaN or infinity is 0; a row with a weight on one of these is NaN."""
    broken = ~value.isfinite().all(-1, keepdim=True)
    hit = weights.detach() @ broken.to(weights.dtype) != 0
    return (weights @ value.masked_fill(broken, 0.0)).masked_fill(hit, torch.nan)
