"""Attention over lists of keys on a CPU, in C++ kernels compiled at first use: saved state is O(n k).

Scores are never held but in strips: a mechanism that selects by score has its lists made by a kernel that keeps, for
every query, the scores that can still be among the k best. Forward and backward touch the listed keys alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....attention.problem import Problem
from ....mechanisms import Mechanism
from ... import lists, tracing
from .. import gather, wide
from . import build, kernels


def objections(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> list[str]:
    """Why these kernels cannot compute ``problem``; empty if they can."""
    found = lists.objections(mechanism, problem)
    query = problem.query
    if query.device.type != "cpu":
        found.append(f"tensors are on {query.device.type}; expected cpu")
    if problem.compute_dtype != torch.float32:
        found.append(f"tensors are {query.dtype}; expected float32, float16 or bfloat16")
    if problem.softcap is not None:
        found.append(f"softcap={problem.softcap}; expected none")
    if return_weights:
        found.append("weights of all keys are asked for, which the lists do not hold")
    if not found and isinstance(missing := build.load(), str):
        found.append(missing)
    return found


def attend(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> tuple[Tensor, None]:
    """See :func:`hf_semfocus.backends.attend`; ``return_weights`` must be False."""
    query, key, value = (kernels.dense_rows(t.float()) for t in (problem.query, problem.key, problem.value))
    index = _lists(mechanism, problem, query, key)
    batch, heads = query.shape[:2]
    bias = problem.bias
    if bias is not None:
        bias = lists.take(bias.float(), index.expand(batch, heads, -1, -1)).contiguous()
    sinks = None if problem.sinks is None else problem.sinks.float().contiguous()
    slots = (*query.shape[:3], index.shape[-1])
    dropout = F.dropout(query.new_ones(slots), problem.dropout_p) if problem.dropout_p else None
    output = _Attend.apply(query, key, value, bias, sinks, index, dropout, problem.scale)
    return wide.fill(mechanism, problem, output)


def _lists(mechanism: Mechanism, problem: Problem, query: Tensor, key: Tensor) -> Tensor:
    if mechanism.by_score is None or mechanism.positional:
        return lists.make(mechanism, problem)
    return kernels.select(
        query.detach(),
        key.detach(),
        min(mechanism.k, key.shape[2]),
        problem.scale,
        mechanism.by_score,
        problem.visibility.mask,
        None if problem.bias is None else problem.bias.detach().float(),
        problem.visibility.limit,
    )


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        sinks: Tensor | None,
        index: Tensor,
        dropout: Tensor | None,
        scale: float,
    ) -> Tensor:
        output, weights = kernels.forward(query, key, value, index, scale, bias, sinks, dropout)
        ctx.save_for_backward(query, key, value, bias, sinks, index, weights, dropout)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        tracing.refuse_batches(grad_output, "native")
        query, key, value, bias, sinks, index, weights, dropout = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradients are to be differentiated
            inputs, wanted = (query, key, value, bias, sinks), ctx.needs_input_grad[:5]
            return *gather.gradients(inputs, wanted, grad_output, index, ctx.scale, dropout), None, None, None
        _, _, _, biased, sunk, *_ = ctx.needs_input_grad
        *grads, grad_scores, delta = kernels.backward(
            query, key, value, index, weights, kernels.dense_rows(grad_output), ctx.scale, dropout, biased, sunk
        )
        # a sink keeps no value, so only its share of the softmax gets a gradient
        grad_sinks = -(delta * (1 - weights.sum(-1))).sum((0, 2)) if sunk else None
        return *grads, grad_scores if biased else None, grad_sinks, None, None, None
