"""Attention over the k keys that were selected for every query, and its gradients.

All kernels gather: a program takes a few rows (queries of one head, counted through batch and heads) and a tile of
their k entries, and loads the keys and values these point to. Nothing they read or write is larger than
O(queries x k) or the inputs. A list is so short that a program takes a few steps over it, so the one query of a
decoding step needs no split over several programs; what it waits for is the selection, which reads all keys.

Source of the recurrences: FlashAttention's online softmax and backward pass (arXiv 2205.14135), on k gathered keys.

Tested in Triton's interpreter and compiled ahead of time, not yet measured on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import drop, gathered_tile, padded, place, vectors
from .key_gradients import sum_by_key


def _constants(query: Tensor, value: Tensor, k: int, dropout_p: float) -> dict[str, int | bool]:
    head_dim, value_dim = query.shape[-1], value.shape[-1]
    return {
        "K": k,
        "D": head_dim,
        "DIM": padded(head_dim),
        "V": value_dim,
        "VDIM": padded(value_dim),
        "DROPOUT": dropout_p > 0,
    }


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    sinks: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Attend to the keys ``index``.

    Args:
        query: ``[batch, heads, queries, head_dim]``, last dimension contiguous, as for the others.
        key: ``[batch, kv_heads, keys, head_dim]``.
        value: ``[batch, kv_heads, keys, value_dim]``.
        index: int32 ``[batch, heads, queries, k]``, contiguous, -1 for no key.
        sinks: floating ``[heads]``, one more logit in the softmax, or None.
        scale: factor of the scores.
        dropout_p: probability that a weight is dropped.
        seed: int64 ``[]`` on the device: with an entry's place in ``index`` it decides which weights are dropped.
            A tensor, so that a captured graph reads it anew whenever it runs. None without dropout.

    Returns:
        ``(output, lse)``: ``[batch, heads, queries, value_dim]`` in the type of ``value``, and the logarithm of the
        softmax's denominator, float32 ``[batch, heads, queries]``.
    """
    batch, heads, queries, k = index.shape
    output = value.new_empty((batch, heads, queries, value.shape[-1]))
    lse = query.new_empty((batch, heads, queries), dtype=torch.float32)
    rows, entries = gathered_tile(k, query.shape[-1], value.shape[-1])
    _forward[(triton.cdiv(lse.numel(), rows),)](
        query,
        key,
        value,
        index,
        sinks,
        output,
        lse,
        scale,
        dropout_p,
        seed,
        lse.numel(),
        heads,
        heads // key.shape[1],
        queries,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        **_constants(query, value, k, dropout_p),
        R=rows,
        E=entries,
        num_warps=4,
    )
    return output, lse


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    sinks: Tensor | None,
    lse: Tensor,
    scale: float,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients with respect to query, key, value and sinks; see :func:`forward`.

    What the queries give a key is summed in a fixed order, after sorting the entries by key; where many queries keep
    one key, in chunks by several programs.

    Args:
        grad: gradient of the output, last dimension contiguous.
    """
    _, heads, queries, k = index.shape
    rows, entries = gathered_tile(k, query.shape[-1], value.shape[-1])
    weight = query.new_empty(index.shape, dtype=torch.float32)
    grad_weight = torch.empty_like(weight)
    delta = torch.empty_like(lse)
    grad_query = query.new_empty(query.shape)
    settings = (scale, dropout_p, seed, lse.numel(), heads, heads // key.shape[1], queries)
    constants = _constants(query, value, k, dropout_p)
    _backward_query[(triton.cdiv(lse.numel(), rows),)](
        query,
        key,
        value,
        grad,
        index,
        lse,
        grad_query,
        weight,
        grad_weight,
        delta,
        *settings,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        *grad.stride()[:3],
        **constants,
        R=rows,
        E=entries,
        num_warps=4,
    )
    grad_sinks = None
    if sinks is not None:
        sink_weight = torch.exp(sinks.float().view(1, -1, 1) - lse)
        grad_sinks = -(sink_weight * delta).sum((0, 2)).to(sinks.dtype)

    saved = (query, grad, weight, grad_weight, delta)
    strides = (*query.stride()[:3], *grad.stride()[:3])
    grad_key, grad_value = sum_by_key(saved, key, value, index, settings, strides, constants)
    return grad_query, grad_key, grad_value, grad_sinks


@triton.jit
def _forward(
    query, key, value, index, sinks, output, lse, scale, dropout_p, seed, rows, heads, groups, queries,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    K: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, V: tl.constexpr, VDIM: tl.constexpr,
    DROPOUT: tl.constexpr, R: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """``softmax(q k^T * scale) v`` over the entries of ``R`` rows, ``E`` at a time; see :func:`forward`."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    real = row < rows
    batch, head, kv_head, number = place(row, heads, groups, queries)
    q = vectors(query + batch * q_b + head * q_h + number * q_n, real, D, DIM) * scale
    key_head = key + (batch * k_b + kv_head * k_h)[:, None]
    value_head = value + (batch * v_b + kv_head * v_h)[:, None]

    highest = tl.full([R], -float("inf"), tl.float32)
    total = tl.zeros([R], tl.float32)
    if sinks is not None:
        highest = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32)
        total += 1.0
    mixed = tl.zeros([R, VDIM], tl.float32)
    for first in range(0, K, E):
        slot = first + tl.arange(0, E)
        entry = row[:, None].to(tl.int64) * K + slot[None, :]
        column = tl.load(index + entry, mask=real[:, None] & (slot < K)[None, :], other=-1).to(tl.int64)
        kept = column >= 0
        score = tl.sum(q[:, None, :] * vectors(key_head + column * k_n, kept, D, DIM), 2)
        score = tl.where(kept, score, -float("inf"))
        before = highest
        highest = tl.maximum(highest, tl.max(score, 1))
        # a row without keys so far subtracts 0, since inf - inf would be NaN
        shift = tl.where(highest == -float("inf"), 0.0, highest)
        shrink = tl.exp(before - shift)
        weight = tl.exp(score - shift[:, None])
        total = total * shrink + tl.sum(weight, 1)
        weight = drop(weight, entry, dropout_p, seed, DROPOUT)
        v = vectors(value_head + column * v_n, kept, V, VDIM)
        mixed = mixed * shrink[:, None] + tl.sum(weight[:, :, None] * v, 1)
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    mixed = mixed / total[:, None]
    dim = tl.arange(0, VDIM)
    where = row[:, None].to(tl.int64) * V + dim[None, :]
    tl.store(output + where, mixed.to(output.dtype.element_ty), mask=real[:, None] & (dim < V)[None, :])
    tl.store(lse + row, tl.where(empty, 0.0, highest + tl.log(total)), mask=real)


@triton.jit
def _backward_query(
    query, key, value, grad, index, lse, grad_query, weights, grad_weights, deltas,
    scale, dropout_p, seed, rows, heads, groups, queries,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n,
    K: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, V: tl.constexpr, VDIM: tl.constexpr,
    DROPOUT: tl.constexpr, R: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries, and what the keys' gradients need: per entry weight and its gradient, per row delta.

    With weights ``p`` and their gradients ``dp`` the scores' are ``p (dp - delta)``, ``delta = sum(p dp)``. The sums
    of ``p dp k`` and of ``p k`` are kept apart until delta is known, so that every key is gathered once.
    """
    row = tl.program_id(0) * R + tl.arange(0, R)
    real = row < rows
    batch, head, kv_head, number = place(row, heads, groups, queries)
    q = vectors(query + batch * q_b + head * q_h + number * q_n, real, D, DIM) * scale
    g = vectors(grad + batch * g_b + head * g_h + number * g_n, real, V, VDIM)
    key_head = key + (batch * k_b + kv_head * k_h)[:, None]
    value_head = value + (batch * v_b + kv_head * v_h)[:, None]
    denominator = tl.load(lse + row, mask=real, other=0.0)

    delta = tl.zeros([R], tl.float32)
    steered = tl.zeros([R, DIM], tl.float32)
    mixed = tl.zeros([R, DIM], tl.float32)
    for first in range(0, K, E):
        slot = first + tl.arange(0, E)
        inside = real[:, None] & (slot < K)[None, :]
        entry = row[:, None].to(tl.int64) * K + slot[None, :]
        column = tl.load(index + entry, mask=inside, other=-1).to(tl.int64)
        kept = column >= 0
        k = vectors(key_head + column * k_n, kept, D, DIM)
        score = tl.sum(q[:, None, :] * k, 2)
        weight = tl.where(kept, tl.exp(score - denominator[:, None]), 0.0)
        grad_weight = tl.sum(g[:, None, :] * vectors(value_head + column * v_n, kept, V, VDIM), 2)
        grad_weight = drop(grad_weight, entry, dropout_p, seed, DROPOUT)
        tl.store(weights + entry, weight, mask=inside)
        tl.store(grad_weights + entry, grad_weight, mask=inside)
        both = weight * grad_weight
        delta += tl.sum(both, 1)
        steered += tl.sum(both[:, :, None] * k, 1)
        mixed += tl.sum(weight[:, :, None] * k, 1)
    tl.store(deltas + row, delta, mask=real)
    dim = tl.arange(0, DIM)
    where = row[:, None].to(tl.int64) * D + dim[None, :]
    result = (steered - delta[:, None] * mixed) * scale
    tl.store(grad_query + where, result.to(grad_query.dtype.element_ty), mask=real[:, None] & (dim < D)[None, :])
