"""The compiled kernels as operators of PyTorch, which graphs of ``torch.compile`` and ``torch.export`` can hold.

Outside of graphs the kernels are called directly, at a tenth of the overhead of an operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import kernels


@torch.library.custom_op("hf_semfocus::native_select", mutates_args=())
def select(
    query: Tensor,
    key: Tensor,
    k: int,
    scale: float,
    sign: int,
    mask: Tensor | None,
    bias: Tensor | None,
    limit: Tensor | None,
) -> Tensor:
    """See :func:`.kernels.select`."""
    return kernels.select(kernels.dense_rows(query), kernels.dense_rows(key), k, scale, sign, mask, bias, limit)


@select.register_fake
def _(query: Tensor, key: Tensor, k: int, *_: Any) -> Tensor:
    return query.new_empty(*query.shape[:3], k, dtype=torch.int32)


@torch.library.custom_op("hf_semfocus::native_attend", mutates_args=())
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    sinks: Tensor | None,
    index: Tensor,
    dropout: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """See :func:`.kernels.forward`."""
    query, key, value = map(kernels.dense_rows, (query, key, value))
    return kernels.forward(query, key, value, index.contiguous(), scale, *map(_dense, (bias, sinks, dropout)))


@attend.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, bias: Any, sinks: Any, index: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    batch, heads, queries, _ = query.shape
    output = query.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
    return output, query.new_empty(batch, heads, queries, index.shape[-1])


@torch.library.custom_op("hf_semfocus::native_attend_backward", mutates_args=())
def attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    weights: Tensor,
    grad_output: Tensor,
    scale: float,
    dropout: Tensor | None,
    wants_scores: bool = False,
    wants_sinks: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`.kernels.backward`; gradients that are not wanted are empty."""
    query, key, value, grad_output = map(kernels.dense_rows, (query, key, value, grad_output))
    index, weights, dropout = map(_dense, (index, weights, dropout))
    wanted = (wants_scores, wants_sinks)
    grads = kernels.backward(query, key, value, index, weights, grad_output, scale, dropout, *wanted)
    return tuple(weights.new_empty(0) if grad is None else grad for grad in grads)


@attend_backward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Any,
    weights: Tensor,
    grad_output: Any,
    scale: Any,
    dropout: Any,
    wants_scores: bool = False,
    wants_sinks: bool = False,
) -> tuple[Tensor, ...]:
    grads = (torch.empty_like(kernels.dense_rows(tensor)) for tensor in (query, key, value))
    grad_scores = torch.empty_like(weights) if wants_scores else weights.new_empty(0)
    return *grads, grad_scores, weights.new_empty(weights.shape[1] if wants_sinks else 0)


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, _, _, index, dropout, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, index, output[1], dropout)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    query, key, value, index, weights, dropout = ctx.saved_tensors
    wanted = ctx.needs_input_grad[3:5]
    grads = attend_backward(query, key, value, index, weights, grad_output, ctx.scale, dropout, *wanted)
    extra = (grad if wants else None for grad, wants in zip(grads[3:], wanted, strict=True))
    return *grads[:3], *extra, None, None, None


attend.register_autograd(_differentiate, setup_context=_save)
