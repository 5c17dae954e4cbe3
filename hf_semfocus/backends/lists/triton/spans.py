"""The columns between which every query sees keys, so that a mask of mere padding or causality is read once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 4096


def spans_of(mask: Tensor) -> Tensor:
    """Of every row the first visible column, the one after the last, and how many are visible: int32 ``[..., 3]``.

    In rows without visible keys these are ``keys``, 0 and 0.

    Args:
        mask: bool ``[batch, heads, queries, keys]``, True for visible keys; the first three may be 1.
    """
    spans = mask.new_empty((*mask.shape[:3], 3), dtype=torch.int32)
    _span[(spans[..., 0].numel(),)](mask.view(torch.uint8), spans, *mask.shape[1:], *mask.stride(), N=_COLUMNS)
    return spans


@triton.jit
def _span(mask, spans, heads, queries, keys, m_b, m_h, m_q, m_k, N: tl.constexpr):
    """See :func:`spans_of`; one row of the mask."""
    row = tl.program_id(0).to(tl.int64)
    mask += row // queries // heads * m_b + row // queries % heads * m_h + row % queries * m_q
    begin = keys
    end = 0
    count = 0
    for first in range(0, keys, N):
        column = first + tl.arange(0, N)
        seen = tl.load(mask + column.to(tl.int64) * m_k, mask=column < keys, other=0) != 0
        begin = tl.minimum(begin, tl.min(tl.where(seen, column, keys), 0))
        end = tl.maximum(end, tl.max(tl.where(seen, column + 1, 0), 0))
        count += tl.sum(seen.to(tl.int32), 0)
    tl.store(spans + row * 3, begin)
    tl.store(spans + row * 3 + 1, end)
    tl.store(spans + row * 3 + 2, count)
