"""Logical positions of queries and keys, from the mask rather than the columns of the key cache.

A key's position is its rank among the keys its query may see. Padding, packed sequences, and the empty tail
of a static cache move columns but not ranks, so a pattern over ranks does not depend on them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Positions(NamedTuple):
    """Positions for the rows of one problem; every tensor broadcasts to ``[batch, heads, queries, keys]``.

    Attributes:
        query: integers ``[..., queries, 1]``, position of every query among the keys it may see, from 0.
        key: integers ``[..., keys]``, position of every key, from 0; meaningless where it is not allowed.
        length: integers ``[..., queries, 1]``, number of keys every query may see.
        head: integers ``[1, heads, 1, 1]``, index of every head.
        layer: index of the layer, 0 where unknown.
        causal: whether no query may see a later key.
        draw: a random integer of this call, for mechanisms that draw keys anew; 0 for the fixed draw.
    """

    query: Tensor
    key: Tensor
    length: Tensor
    head: Tensor
    layer: int
    causal: bool
    draw: Tensor | int = 0


def locate(
    allowed: Tensor, own: Tensor | None, causal: bool, num_heads: int, layer: int = 0, unmasked: bool = False
) -> Positions:
    """Positions from a mask.

    Args:
        allowed: bool, broadcastable to ``[batch, heads, queries, keys]``: the keys a query may see.
        own: int64 ``[queries]``, the column of each query's own key; None means its last allowed key.
        causal: whether no query may see a later key.
        num_heads: number of query heads.
        layer: index of the layer.
        unmasked: whether nothing is masked but the future, so that a key's position is its column.
    """
    head = torch.arange(num_heads, device=allowed.device).view(1, -1, 1, 1)
    if unmasked:
        query = own.view(1, 1, -1, 1)
        key = torch.arange(allowed.shape[-1], device=allowed.device).view(1, 1, 1, -1)
        length = query + 1 if causal else torch.full_like(query, allowed.shape[-1])
        return Positions(query, key, length, head, layer, causal)
    rank = allowed.cumsum(-1, dtype=torch.int32)
    length = rank[..., -1:]
    query = length
    if own is not None:
        per_query = rank.expand(*rank.shape[:2], own.numel(), -1)
        query = per_query.gather(-1, own.clamp(min=0).view(1, 1, -1, 1).expand(*rank.shape[:2], -1, 1))
    return Positions(query - 1, rank - 1, length, head, layer, causal)
