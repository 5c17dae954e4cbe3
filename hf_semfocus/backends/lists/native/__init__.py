"""Attention over lists of keys on a CPU, in C++ kernels compiled at first use: saved state is O(n k).

Scores are never held but in strips: a mechanism that selects by score has its lists made by a kernel that keeps, for
every query, the scores that can still be among the k best. Forward and backward touch the listed keys alone.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import tracing
from ...limits import Limits
from .. import gather
from . import build, kernels
from .kernels import select

__all__ = ["COMPILED", "LIMITS", "UPCAST", "attend", "select"]


LIMITS = Limits(
    keeps="lists",
    devices=("cpu",),
    dtypes=(torch.float32, torch.float16, torch.bfloat16),
    softcap=False,
    weights=False,
    load=lambda: build.load(),
)
COMPILED = True
UPCAST = True


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    scale: float,
    bias: Tensor | None,
    softcap: None,
    sinks: Tensor | None,
    dropout_p: float,
    return_weights: Literal[False],
) -> tuple[Tensor, None]:
    """See :meth:`hf_semfocus.backends.lists.Kernels.attend`."""
    dropout = None
    if dropout_p:
        dropout = F.dropout(query.new_ones(*query.shape[:3], index.shape[-1]), dropout_p)
    return _Attend.apply(query, key, value, bias, sinks, index, dropout, scale), None


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
