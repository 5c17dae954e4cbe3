"""Attention over lists of keys in plain PyTorch, on any device: saved state is O(n k).

``dot`` scores the gathered keys, ``mix`` sums the gathered values; each is the other's gradient, and the
gradient with respect to the gathered side is ``scatter``, the transpose of ``mix``, summed key by key in a
fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..mechanisms import Mechanism
from ..problem import Problem
from . import eager, lists, wide


def objections(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> list[str]:
    """Why gathered keys cannot compute ``problem``; empty if they can."""
    found = lists.objections(mechanism, problem)
    return [*found, "torch.compile cannot trace a choice by data"] if torch.compiler.is_compiling() else found


def attend(
    mechanism: Mechanism, problem: Problem, return_weights: bool = False, chunk_scores: int = lists.CHUNK_SCORES
) -> tuple[Tensor, Tensor | None]:
    """See :func:`hf_semfocus.backends.attend`; ``chunk_scores`` bounds the scores held at a time."""
    batch, heads, queries, keys = problem.shape
    problem = problem.blank_unseen()  # an absent slot takes key 0 with weight 0
    index = lists.make(mechanism, problem, chunk_scores).long().expand(batch, heads, -1, -1)
    kept, index, slots = index >= 0, index.clamp(min=0), index.shape[-1]
    # one table of rows for all heads: row (b, h, j) of the keys is number (b * heads + h) * keys + j
    offset = torch.arange(batch * heads, device=index.device).view(batch, heads, 1, 1) * keys
    rows = (index + offset).view(-1, slots)

    query = problem.query.to(problem.compute_dtype) * problem.scale
    scores = dot(query.flatten(0, 2), problem.repeat_heads(problem.key).flatten(0, 2), rows)
    bias = None if problem.bias is None else lists.take(problem.bias, index)
    scores = problem.adjust(scores.view(batch, heads, queries, slots), bias)
    weights = eager.weigh(mechanism, scores, kept, problem.sinks)
    dropped = F.dropout(weights, problem.dropout_p).view(-1, slots)
    output = mix(dropped, problem.repeat_heads(problem.value).flatten(0, 2), rows)
    full = weights.new_zeros(problem.shape).scatter_add(-1, index, weights) if return_weights else None
    return wide.fill(mechanism, problem, output.view(batch, heads, queries, -1), full)


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
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, index = ctx.saved_tensors
        grad = grad.contiguous()
        grad_query = _mix(grad, key, index) if ctx.needs_input_grad[0] else None
        grad_key = _scatter(grad, query, index, key.shape[0]) if ctx.needs_input_grad[1] else None
        return grad_query, grad_key, None


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, value: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(weight, value, index)
        return _mix(weight, value, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, value, index = ctx.saved_tensors
        grad = grad.contiguous()
        grad_weight = _dot(grad, value, index) if ctx.needs_input_grad[0] else None
        grad_value = _scatter(weight, grad, index, value.shape[0]) if ctx.needs_input_grad[1] else None
        return grad_weight, grad_value, None


def dot(query: Tensor, key: Tensor, index: Tensor) -> Tensor:
    """Dot products with the gathered rows: ``[rows, dim], [keys, dim], int64 [rows, k] -> [rows, k]``."""
    return _Dot.apply(query.contiguous(), key.contiguous(), index)


def mix(weight: Tensor, value: Tensor, index: Tensor) -> Tensor:
    """Weighted sums of the gathered rows: ``[rows, k], [keys, dim], int64 [rows, k] -> [rows, dim]``."""
    return _Mix.apply(weight.contiguous(), value.contiguous(), index)
