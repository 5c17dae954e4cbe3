"""The kernels as one differentiable function of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....attention.problem import Problem
from ... import tracing
from .. import gather
from . import attention, operators


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        index: Tensor,
        settings: tuple[float, float, Tensor | None],
    ) -> Tensor:
        with torch.cuda.device_of(query):
            output, lse = attention.forward(query, key, value, index, sinks, *settings)
        ctx.save_for_backward(query, key, value, index, sinks, lse)
        ctx.settings = settings
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tracing.refuse_batches(grad, "triton")
        if torch.is_grad_enabled():  # second derivatives are wanted
            query, key, value, index, sinks, _ = ctx.saved_tensors
            scale, dropout_p, _ = ctx.settings
            if dropout_p:
                raise ValueError(
                    f"backend 'triton' has no second derivatives with dropout_p={dropout_p}; expected no dropout, or "
                    "backend='gather' in the forward pass"
                )
            inputs, wanted = (
                (query, key, value, None, sinks),
                (*ctx.needs_input_grad[:3], False, ctx.needs_input_grad[3]),
            )
            *grads, _, grad_sinks = gather.gradients(inputs, wanted, grad, index, scale)
            return *grads, grad_sinks, None, None
        with torch.cuda.device_of(grad):
            grad = grad if grad.stride(-1) == 1 else grad.contiguous()
            grads = attention.backward(grad, *ctx.saved_tensors, *ctx.settings)
        return *grads, None, None


def attend(problem: Problem, index: Tensor) -> Tensor:
    """See :meth:`hf_semfocus.backends.lists.Kernels.attend`."""
    index = index.expand(*problem.shape[:2], -1, -1).contiguous()
    inputs = (problem.query, problem.key, problem.value, problem.sinks)
    return _Attention.apply(*inputs, index, (problem.scale, problem.dropout_p, operators.draw_seed(problem)))
