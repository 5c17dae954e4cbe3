"""Attention over lists of keys on a CPU, in C++ kernels compiled at first use: saved state is O(n k).

Scores are only held in strips: for selection by score, a kernel keeps for every query the scores that can still be
among the k highest. Forward and backward touch the listed keys alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....attention.problem import Problem
from ... import tracing
from ...limits import Limits
from .. import gather
from . import build, kernels, operators


@torch.compiler.assume_constant_result
def _missing() -> str | None:
    return missing if isinstance(missing := build.load(), str) else None


LIMITS = Limits(
    keeps="lists",
    devices=("cpu",),
    dtypes=(torch.float32, torch.float16, torch.bfloat16),
    softcap=False,
    weights=False,
    in_graphs=True,
    load=_missing,
)
COMPILED = True
UPCAST = True


def select(problem: Problem, k: int, sign: int, softmax: bool = False) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """See :class:`hf_semfocus.backends.lists.Kernels`."""
    seen = problem.visibility
    inputs = (problem.query, problem.key, k, problem.scale, sign, seen.mask, problem.bias, seen.limit)
    return operators.select(*inputs) if torch.compiler.is_compiling() else kernels.select(*inputs, softmax)


def attend(problem: Problem, index: Tensor, bias: Tensor | None, return_weights: bool) -> tuple[Tensor, None]:
    """See :meth:`hf_semfocus.backends.lists.Kernels.attend`."""
    query, dropout = problem.query, None
    if problem.dropout_p:
        dropout = F.dropout(query.new_ones(*query.shape[:3], index.shape[-1]), problem.dropout_p)
    inputs = (query, problem.key, problem.value, bias, problem.sinks)
    if torch.compiler.is_compiling():
        return operators.attend(*inputs, index, dropout, problem.scale)[0], None
    if not torch.is_grad_enabled():  # without the overhead of a node of autograd
        query, key, value, *extra = inputs
        return kernels.forward(query, key, value, index, problem.scale, *extra, dropout)[0], None
    return _Attend.apply(*inputs, index, dropout, problem.scale), None


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
        if torch.is_grad_enabled():  # second derivatives are wanted
            inputs, wanted = (query, key, value, bias, sinks), ctx.needs_input_grad[:5]
            return *gather.gradients(inputs, wanted, grad_output, index, ctx.scale, dropout), None, None, None
        _, _, _, biased, sunk, *_ = ctx.needs_input_grad
        grads = kernels.backward(
            query, key, value, index, weights, kernels.dense_rows(grad_output), ctx.scale, dropout, biased, sunk
        )
        return *grads, None, None, None
