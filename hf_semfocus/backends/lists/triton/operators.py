"""The Triton kernels as operators of PyTorch, which graphs of ``torch.compile`` and ``torch.export`` can hold.

Tested in Triton's interpreter, not yet run in a graph on a GPU. Importing this module does not import Triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....attention.problem import Problem
from ....attention.visibility import Visibility


@torch.library.custom_op("hf_semfocus::triton_select", mutates_args=())
def select(
    query: Tensor, key: Tensor, k: int, scale: float, sign: int, mask: Tensor | None, first: int | None
) -> Tensor:
    """See :func:`.selection.select`; ``first`` is the column of the first query's own key where that limits it."""
    from . import selection

    seen = Visibility(mask, first, first is not None, query.shape[2], query.device)
    query, key = map(_dense, (query, key))
    with torch.cuda.device_of(query):
        return selection.select(Problem(query, key, key, seen, scale), k, sign)


@select.register_fake
def _(query: Tensor, key: Tensor, k: int, *_: Any) -> Tensor:
    return query.new_empty(*query.shape[:3], k, dtype=torch.int32)


@torch.library.custom_op("hf_semfocus::triton_attend", mutates_args=())
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    index: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See :func:`.attention.forward`."""
    from . import attention

    query, key, value = map(_dense, (query, key, value))
    with torch.cuda.device_of(query):
        return attention.forward(query, key, value, index.contiguous(), sinks, scale, dropout_p, seed)


@attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    rows = query.shape[:3]
    return value.new_empty(*rows, value.shape[-1]), query.new_empty(rows, dtype=torch.float32)


@torch.library.custom_op("hf_semfocus::triton_attend_backward", mutates_args=())
def attend_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    sinks: Tensor | None,
    lse: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`.attention.backward`; the gradient of the sinks is empty where there are none."""
    from . import attention

    grad_output, query, key, value = map(_dense, (grad_output, query, key, value))
    given = (grad_output, query, key, value, index.contiguous(), sinks, lse.contiguous())
    with torch.cuda.device_of(query):
        *grads, grad_sinks = attention.backward(*given, scale, dropout_p, seed)
    grads = [grad.contiguous() for grad in grads]
    return *grads, query.new_empty(0) if grad_sinks is None else grad_sinks


@attend_backward.register_fake
def _(
    grad_output: Any, query: Tensor, key: Tensor, value: Tensor, index: Any, sinks: Tensor | None, *_: Any
) -> tuple[Tensor, ...]:
    grads = (tensor.new_empty(tensor.shape) for tensor in (query, key, value))
    return *grads, query.new_empty(0) if sinks is None else torch.empty_like(sinks)


def draw_seed(problem: Problem) -> Tensor | None:
    """A seed for the dropout of one call, by the device's generator, which graphs and checkpointing restore."""
    return torch.randint(2**31 - 1, (), device=problem.query.device) if problem.dropout_p else None


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, sinks, index, ctx.scale, ctx.dropout_p, seed = inputs
    ctx.save_for_backward(query, key, value, index, sinks, output[1], seed)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    *saved, seed = ctx.saved_tensors
    *grads, grad_sinks = attend_backward(grad_output, *saved, ctx.scale, ctx.dropout_p, seed)
    return *grads, grad_sinks if ctx.needs_input_grad[3] else None, None, None, None, None


attend.register_autograd(_differentiate, setup_context=_save)
