"""Attention over lists of keys in plain PyTorch, on any device: saved state is O(n k).

``dot`` scores the gathered keys, ``mix`` sums the gathered values, and ``scatter`` is the transpose of ``mix``, summed
key by key in a fixed order. The gradients of each are the other two, so that it can be differentiated any number of
times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention.problem import Problem
from ...attention.visibility import Visibility
from ...mechanisms import Mechanism
from .. import eager, tracing
from ..limits import Limits

LIMITS = Limits(keeps="lists")
COMPILED = False
UPCAST = True
select = None


def attend(problem: Problem, index: Tensor, bias: Tensor | None, return_weights: bool) -> tuple[Tensor, Tensor | None]:
    """See :meth:`hf_semfocus.backends.lists.Kernels.attend`."""
    output, weights = _over(problem, index, bias, partial(F.dropout, p=problem.dropout_p))
    return output, weights if return_weights else None


def gradients(
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
    grad_output: Tensor,
    index: Tensor,
    scale: float,
    dropout: Tensor | None = None,
) -> list[Tensor | None]:
    """Differentiable gradients of attention over given lists, for kernels without second derivatives.

    Args:
        inputs: query, key, value, bias at the lists, sinks; the last two may be None.
        wanted: which inputs need a gradient.
        grad_output: gradient of the output.
        index: the lists.
        scale: factor of the scores.
        dropout: factors of the weights; None for none.
    """
    # key and value may be the same tensor
    query, key, value, bias, sinks = own = [None if t is None else t.view_as(t) for t in inputs]
    drop = (lambda weights: weights) if dropout is None else dropout.mul
    everywhere = Visibility(None, None, False, query.shape[2], query.device)
    output, _ = _over(Problem(query, key, value, everywhere, scale, sinks=sinks), index, bias, drop)
    needed = [tensor for tensor, wants in zip(own, wanted, strict=True) if wants]
    found = iter(torch.autograd.grad(output, needed, grad_output, create_graph=True))
    return [next(found) if wants else None for wants in wanted]


def _over(
    problem: Problem, index: Tensor, bias: Tensor | None, drop: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Output and weights over lists."""
    (batch, heads, queries, keys), slots = problem.shape, index.shape[-1]

    def table(tensor: Tensor) -> Tensor:
        # one table of rows for all heads, with a row of zeros at the end of each for empty slots
        return F.pad(problem.repeat_heads(tensor), (0, 0, 0, 1)).flatten(0, 2)

    offset = torch.arange(batch * heads, device=index.device).view(batch, heads, 1, 1) * (keys + 1)
    rows = (torch.where(index < 0, keys, index) + offset).view(-1, slots)
    query = problem.query.to(problem.compute_dtype) * problem.scale
    scores = dot(query.flatten(0, 2), table(problem.key), rows).view(batch, heads, queries, slots)
    weights = eager.weigh(Mechanism(), problem.adjust(scores, bias), index >= 0, problem.sinks)
    output = mix(drop(weights).view(-1, slots), table(problem.value), rows)
    return output.view(batch, heads, queries, -1), weights


def _dot(query: Tensor, key: Tensor, index: Tensor) -> Tensor:
    out = query.new_empty(index.shape)
    for j in range(index.shape[-1]):
        torch.sum(query * key[index[:, j]], -1, out=out[:, j])
    return out


def _mix(weight: Tensor, value: Tensor, index: Tensor) -> Tensor:
    return F.embedding_bag(index, value, per_sample_weights=weight, mode="sum")


def _scatter(weight: Tensor, query: Tensor, index: Tensor, keys: int) -> Tensor:
    flat = index.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=keys)
    return F.embedding_bag(
        order // index.shape[-1],
        query,
        offsets=counts.cumsum(0) - counts,
        per_sample_weights=weight.flatten()[order],
        mode="sum",
    )


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, index)
        return _dot(query, key, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tracing.refuse_batches(grad, "gather")
        query, key, index = ctx.saved_tensors
        grad_query = mix(grad, key, index) if ctx.needs_input_grad[0] else None
        grad_key = scatter(grad, query, index, key.shape[0]) if ctx.needs_input_grad[1] else None
        return grad_query, grad_key, None


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(weight, value, index)
        return _mix(weight, value, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tracing.refuse_batches(grad, "gather")
        weight, value, index = ctx.saved_tensors
        grad_weight = dot(grad, value, index) if ctx.needs_input_grad[0] else None
        grad_value = scatter(weight, grad, index, value.shape[0]) if ctx.needs_input_grad[1] else None
        return grad_weight, grad_value, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, query: Tensor, index: Tensor, keys: int) -> Tensor:
        ctx.save_for_backward(weight, query, index)
        return _scatter(weight, query, index, keys)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, query, index = ctx.saved_tensors
        grad_weight = dot(query, grad, index) if ctx.needs_input_grad[0] else None
        grad_query = mix(weight, grad, index) if ctx.needs_input_grad[1] else None
        return grad_weight, grad_query, None, None


def dot(query: Tensor, key: Tensor, index: Tensor) -> Tensor:
    """Dot products with the gathered rows: ``[rows, dim], [keys, dim], int64 [rows, k] -> [rows, k]``."""
    return _Dot.apply(query.contiguous(), key.contiguous(), index)


def mix(weight: Tensor, value: Tensor, index: Tensor) -> Tensor:
    """Weighted sums of the gathered rows: ``[rows, k], [keys, dim], int64 [rows, k] -> [rows, dim]``."""
    return _Mix.apply(weight.contiguous(), value.contiguous(), index)


def scatter(weight: Tensor, query: Tensor, index: Tensor, keys: int) -> Tensor:
    """Weighted sums of the rows that list a key: ``[rows, k], [rows, dim], int64 [rows, k] -> [keys, dim]``."""
    return _Scatter.apply(weight.contiguous(), query.contiguous(), index, keys)
