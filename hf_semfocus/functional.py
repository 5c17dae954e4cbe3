"""``sparse_attention``: any mechanism with the calling convention of ``scaled_dot_product_attention``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import backends
from .attention.masks import allowed_and_bias
from .attention.problem import Problem
from .attention.visibility import Visibility
from .mechanisms import Mechanism, base_name, build, get


def sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mechanism: str,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
    enable_gqa: bool = False,
    backend: str = "auto",
    return_weights: bool = False,
    **params: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention in which every query keeps the keys that ``mechanism`` selects (arXiv 2506.14095).

    The mask is applied first, so no mechanism spends its keys on the future or on padding. Scores and weights
    are float32 (float64 for float64 inputs). A query that may see no key gets zeros.

    Unlike ``scaled_dot_product_attention``, ``is_causal`` may come together with ``attn_mask`` (both apply), and
    fewer queries than keys are the *last* positions, as in decoding with a cache.

    Args:
        query: floating ``[batch, heads, queries, head_dim]``.
        key: ``[batch, heads, keys, head_dim]`` of the same type; fewer heads with ``enable_gqa``.
        value: ``[batch, heads, keys, value_dim]`` of the same type, as many heads as ``key``.
        mechanism: name, with parameters if wanted: ``"topk_sparse"``, ``"topk_sparse:k=8"``.
        attn_mask: broadcastable to ``[batch, heads, queries, keys]``; bool (True: may attend) or floating (added
            to the scores; -inf or the type's lowest values: may not attend).
        is_causal: no query sees a later key.
        scale: factor of the scores, ``head_dim ** -0.5`` by default.
        dropout_p: probability in [0, 1) that a weight is dropped. Applied whenever it is not 0.
        enable_gqa: let a group of query heads share each key head.
        backend: ``"auto"``, or one of ``hf_semfocus.backends.BACKENDS``; :func:`explain` lists those that can.
        return_weights: also return the weights before dropout.
        **params: the mechanism's parameters, e.g. ``k=8``; those in the ``mechanism`` string win.

    Returns:
        The output ``[batch, heads, queries, value_dim]`` in the type of ``value``; with ``return_weights`` also
        the weights ``[batch, heads, queries, keys]``.

    Raises:
        ValueError: an unknown mechanism, parameter or backend, a backend that cannot compute this (with reasons), or
            tensors that do not fit together.
    """
    made, problem = _problem(query, key, value, mechanism, params, attn_mask, is_causal, scale, dropout_p, enable_gqa)
    output, weights = backends.attend(made, problem, return_weights, backend)
    return (output, weights) if return_weights else output


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mechanism: str,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
    enable_gqa: bool = False,
    return_weights: bool = False,
    **params: Any,
) -> backends.Explanation:
    """Explain how :func:`sparse_attention` would compute the same arguments, without computing anything.

    Returns:
        The backend that ``"auto"`` takes and the objections of every backend; ``print`` shows it as a table.

    Raises:
        ValueError: as :func:`sparse_attention` does.
    """
    made, problem = _problem(query, key, value, mechanism, params, attn_mask, is_causal, scale, dropout_p, enable_gqa)
    return backends.explain(made, problem, return_weights)


def _problem(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mechanism: str,
    params: dict[str, Any],
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    dropout_p: float,
    enable_gqa: bool,
) -> tuple[Mechanism, Problem]:
    made = _built(mechanism, params)
    if made.owns_state():
        raise ValueError(f"{made.spec} has trainable parameters, which a layer of a model holds; expected a model")
    _check(query, key, value, attn_mask, scale, dropout_p, enable_gqa)
    queries, keys = query.shape[2], key.shape[2]
    if made.positional and queries > keys:
        raise ValueError(
            f"{made.spec} counts positions, which {queries} queries over {keys} keys do not have; expected at most as "
            "many queries as keys"
        )
    mask, bias = allowed_and_bias(attn_mask, keys)
    problem = Problem(
        query=query,
        key=key,
        value=value,
        visibility=Visibility.between(queries, keys, query.device, mask, is_causal),
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        bias=bias,
        dropout_p=dropout_p,
    )
    return made, problem.drawn() if made.redraws else problem


def _built(spec: str, params: dict[str, Any]) -> Mechanism:
    """``build(spec, **params)``, remembered, as it takes the time of a small call's kernels."""
    if torch.compiler.is_compiling():
        return build(spec, **params)
    cls = get(base_name(spec))  # another one of that name may be registered later
    try:
        return _remembered(cls, spec, **params)
    except TypeError:  # a value that cannot be remembered
        return build(spec, **params)


@lru_cache(maxsize=256, typed=True)
def _remembered(cls: type[Mechanism], spec: str, /, **params: Any) -> Mechanism:
    return build(spec, **params)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    scale: float | None,
    dropout_p: float,
    enable_gqa: bool,
) -> None:
    """Refuse tensors that do not fit together, with the shapes that were found."""
    shapes = {name: tuple(t.shape) for name, t in (("query", query), ("key", key), ("value", value))}
    types = {t.dtype for t in (query, key, value)}
    if any(len(shape) != 4 for shape in shapes.values()):
        raise ValueError(f"expected query, key and value as [batch, heads, length, head_dim], got {shapes}")
    if len(types) > 1 or not query.is_floating_point():
        raise ValueError(f"expected query, key and value of one floating type, got {sorted(map(str, types))}")
    if query.shape[0] != key.shape[0] or query.shape[-1] != key.shape[-1] or key.shape[:3] != value.shape[:3]:
        raise ValueError(f"query, key and value do not fit together: {shapes}")
    if 0 in (key.shape[2], query.shape[1], key.shape[1]):
        raise ValueError(f"expected at least one head and one key, got {shapes}")
    heads, kv_heads = query.shape[1], key.shape[1]
    if heads != kv_heads and (not enable_gqa or heads % kv_heads):
        hint = "a multiple of the key heads" if enable_gqa else "as many as key heads, or enable_gqa=True"
        raise ValueError(f"query has {heads} heads and key {kv_heads}; expected {hint}")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p={dropout_p!r} is not allowed; expected a probability in [0, 1)")
    if scale is not None and not abs(scale) < float("inf"):
        raise ValueError(f"scale={scale!r} is not allowed; expected a finite number")
    if attn_mask is not None:
        full = (*query.shape[:3], key.shape[2])
        if not (attn_mask.dtype == torch.bool or attn_mask.is_floating_point()):
            raise ValueError(f"attn_mask has type {attn_mask.dtype}; expected torch.bool or a floating type")
        if attn_mask.dim() > 4 or any(
            a != 1 and a != b for a, b in zip(reversed(attn_mask.shape), reversed(full), strict=False)
        ):
            raise ValueError(f"attn_mask of shape {tuple(attn_mask.shape)} does not broadcast to {full}")
