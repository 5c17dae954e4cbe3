"""The compiled kernels on tensors: ``select``, ``forward`` and ``backward`` over lists of keys.

A list is an int32 tensor ``[batch, heads, queries, slots]`` of key columns, -1 where a query keeps fewer keys. Its
batch and head dimensions may be 1 where they are shared. All tensors are float32 on the CPU.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from . import build

LAYOUT = struct.Struct("=9q 12q 10q 4q f i 3q q 20q 2q")
"""Of ``struct Problem`` in ``kernels.cpp``. A structure of ``ctypes`` takes twice the time to fill."""
NO_ROWS, NO_PLANE = (0,) * 4, (0,) * 5


def _rows(tensor: Tensor) -> tuple[int, ...]:
    return (tensor.data_ptr(), *tensor.stride()[:3])


def _plane(tensor: Tensor | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A tensor broadcast to ``shape``, with zero strides."""
    if tensor is None:
        return NO_PLANE
    tensor = tensor.expand(shape)
    return (tensor.data_ptr(), *tensor.stride())


def _pointer(tensor: Tensor | None, *shape: int) -> int:
    """Address of a dense tensor of ``shape``, which is checked here, as the kernels do not."""
    if tensor is None:
        return 0
    if tuple(tensor.shape) != shape or not tensor.is_contiguous():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)}, strides {tensor.stride()}; expected dense {shape}")
    return tensor.data_ptr()


def _call(
    name: str,
    query: Tensor,
    key: Tensor,
    index: Tensor,
    scale: float,
    *,
    value_dim: int = 0,
    value: Sequence[int] = NO_ROWS,
    mask: Sequence[int] = NO_PLANE,
    bias: Sequence[int] = NO_PLANE,
    list_bias: int = 0,
    limit: int = 0,
    sinks: int = 0,
    dropout: int = 0,
    sign: int = 0,
    weights: int = 0,
    output: Sequence[int] = NO_ROWS,
    grad_output: Sequence[int] = NO_ROWS,
    grad_query: Sequence[int] = NO_ROWS,
    grad_key: Sequence[int] = NO_ROWS,
    grad_value: Sequence[int] = NO_ROWS,
    grad_scores: int = 0,
    delta: int = 0,
) -> None:
    """Call the kernel ``name`` with the fields of its ``struct Problem``, in order."""
    batch, heads, queries, dim = query.shape
    strides = [index.stride(d) * (index.shape[d] > 1) for d in (0, 1)]  # 0 where lists are shared
    problem = LAYOUT.pack(
        *(batch, heads, key.shape[1], queries, key.shape[2], dim, value_dim, index.shape[3], torch.get_num_threads()),
        *(*_rows(query), *_rows(key), *value, *mask, *bias),
        *(list_bias, limit, sinks, dropout, scale, sign),
        *(index.data_ptr(), *strides, weights),
        *(*output, *grad_output, *grad_query, *grad_key, *grad_value),
        *(grad_scores, delta),
    )
    getattr(build.load(), name)(problem)


def dense_rows(tensor: Tensor) -> Tensor:
    """``tensor`` with its last dimension contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def select(
    query: Tensor,
    key: Tensor,
    k: int,
    scale: float,
    sign: int,
    mask: Tensor | None,
    bias: Tensor | None,
    limit: Tensor | None,
    softmax: bool = False,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """The ``k`` keys of highest (``sign`` 1) or lowest (-1) score of every query; of equal scores the later key.

    Args:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, kv_heads, keys, head_dim]``.
        k: slots of the lists, at least 1.
        scale: factor of the scores.
        sign: 1 for the highest, -1 for the lowest scores.
        mask: bool, broadcastable to the scores, True where a query may see a key; None for everywhere.
        bias: broadcastable to the scores; None for none.
        limit: int64 ``[queries]``, the last column each query may see; None for no limit.
        softmax: also return the scores of the lists, -inf in empty slots, and ``[batch, heads, queries, 1]``, the sums
            of the exponentials of all ``sign * scores`` of a query less the highest.
    """
    shape = (*query.shape[:3], key.shape[2])
    index = query.new_empty(*query.shape[:3], k, dtype=torch.int32)
    scores, totals = [query.new_empty(*query.shape[:3], size) if softmax else None for size in (k, 1)]
    _call(
        "select_keys",
        query,
        key,
        index,
        scale,
        sign=sign,
        mask=_plane(mask, shape),
        bias=_plane(bias, shape),
        limit=_pointer(limit, query.shape[2]),
        weights=_pointer(scores, *index.shape),
        delta=_pointer(totals, *query.shape[:3], 1),
    )
    return (index, scores, totals) if softmax else index


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    scale: float,
    bias: Tensor | None,
    sinks: Tensor | None,
    dropout: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of every query over its list.

    Args:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, kv_heads, keys, head_dim]``.
        value: ``[batch, kv_heads, keys, value_dim]``.
        index: the lists.
        scale: factor of the scores.
        bias: ``[batch, heads, queries, slots]``, added to the scores of the lists; None for none.
        sinks: ``[heads]``, one extra logit per head without a value; None for none.
        dropout: ``[batch, heads, queries, slots]``, factors of the weights; None for none.

    Returns:
        ``(output, weights)``: ``[batch, heads, queries, value_dim]``, laid out as ``[batch, queries, heads, ...]``,
        and ``[batch, heads, queries, slots]`` before dropout.
    """
    batch, heads, queries, slots = *query.shape[:3], index.shape[-1]
    dim = value.shape[-1]
    output = query.new_empty_strided((batch, heads, queries, dim), (queries * heads * dim, dim, heads * dim, 1))
    weights = query.new_empty(batch, heads, queries, slots)
    _call(
        "forward",
        query,
        key,
        index,
        scale,
        value_dim=dim,
        value=_rows(value),
        list_bias=_pointer(bias, *weights.shape),
        sinks=_pointer(sinks, heads),
        dropout=_pointer(dropout, *weights.shape),
        weights=weights.data_ptr(),
        output=_rows(output),
    )
    return output, weights


def backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of :func:`forward`, the same for any number of threads.

    Returns:
        ``(grad_query, grad_key, grad_value, grad_scores, grad_sinks)``; ``grad_scores`` is with respect to the scores
        of the lists, ``[batch, heads, queries, slots]``, and ``grad_sinks`` is ``[heads]``. The last two are None
        unless wanted.
    """
    grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
    # with a head for every thread, the gradients of the scores need no shared memory
    shared = wants_scores or key.shape[0] * key.shape[1] < 2 * torch.get_num_threads()
    grad_scores = torch.empty_like(weights) if shared else None
    # of every query, the sum of its weights times their gradients
    delta = weights.new_empty(weights.shape[:3]) if wants_sinks else None
    _call(
        "backward",
        query,
        key,
        index,
        scale,
        value_dim=value.shape[-1],
        value=_rows(value),
        dropout=_pointer(dropout, *weights.shape),
        weights=_pointer(weights, *query.shape[:3], index.shape[-1]),
        grad_output=_rows(grad_output),
        grad_scores=_pointer(grad_scores, *weights.shape),
        delta=_pointer(delta, *query.shape[:3]),
        **{f"grad_{name}": _rows(grad) for name, grad in zip(("query", "key", "value"), grads, strict=True)},
    )
    # a sink has no value, so only its share of the softmax gets a gradient
    grad_sinks = -(delta * (1 - weights.sum(-1))).sum((0, 2)) if wants_sinks else None
    return *grads, grad_scores if wants_scores else None, grad_sinks
