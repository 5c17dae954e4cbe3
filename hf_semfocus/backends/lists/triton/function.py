"""The kernels as one differentiable function of torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ....attention.problem import Problem
from ... import tracing
from .. import gather
from . import attention, selection


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        index: Tensor,
        settings: tuple[float, float, int],
        deterministic: bool,
    ) -> Tensor:
        with torch.cuda.device_of(query):
            output, lse = attention.forward(query, key, value, index, sinks, *settings)
        ctx.save_for_backward(query, key, value, index, sinks, lse)
        ctx.settings, ctx.deterministic = settings, deterministic
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tracing.refuse_batches(grad, "triton")
        if torch.is_grad_enabled():  # the gradients are to be differentiated
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
            return *grads, grad_sinks, None, None, None
        with torch.cuda.device_of(grad):
            grads = attention.backward(_dense(grad), *ctx.saved_tensors, *ctx.settings, ctx.deterministic)
        return *grads, None, None, None


def attend(problem: Problem, k: int, sign: int, deterministic: bool) -> Tensor:
    """Attention in which every query keeps its ``k`` keys of highest ``sign * score``.

    Args:
        problem: without bias and softcap, float32 or half precision, with at least one key.
        k: at most as many as there are keys.
        sign: 1 or -1.
        deterministic: see :func:`hf_semfocus.backends.lists.triton.attention.backward`.

    Returns:
        ``[batch, heads, queries, value_dim]`` in the type of the values.
    """
    query, key, value = map(_dense, (problem.query, problem.key, problem.value))
    with torch.no_grad(), torch.cuda.device_of(query):
        index = selection.highest_index(replace(problem, query=query, key=key), k, sign)
    # drawn on the CPU, where it costs no synchronization; checkpointing restores this generator too
    seed = int(torch.randint(2**31 - 1, (), device="cpu")) if problem.dropout_p else 0
    settings = (problem.scale, problem.dropout_p, seed)
    sinks = None if problem.sinks is None else problem.sinks.contiguous()
    return _Attention.apply(query, key, value, sinks, index, settings, deterministic)


def _dense(tensor: Tensor) -> Tensor:
    """``tensor`` with a contiguous last dimension, as the kernels expect it."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
