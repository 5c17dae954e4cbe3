"""Exact selection of the k highest priorities of a row, with a fixed rule for ties.

Of keys with equal priority the later one is kept. The rule looks at the order of the allowed keys only, so
padding or another cache layout cannot change the choice, and a query never keeps more than k keys. NaN counts
as the highest priority, so that a NaN score shows in the output as in dense attention.
"""

from __future__ import annotations

import torch
from torch import Tensor


def highest(priority: Tensor, allowed: Tensor, k: int) -> Tensor:
    """Keep the ``k`` allowed keys of highest priority in every row, all of them where there are fewer.

    Args:
        priority: floating ``[..., keys]``, finite where allowed.
        allowed: bool, broadcastable against ``priority``.
        k: number of keys to keep, at least 1.

    Returns:
        bool tensor of the shape both broadcast to: every key above the k-th highest priority, then of the keys
        equal to it the latest, up to ``k`` in all.
    """
    if k >= allowed.shape[-1]:
        return allowed
    priority = priority.masked_fill(~allowed, -torch.inf)
    kth = priority.topk(k, dim=-1).values[..., -1:]
    above, level = ~(priority <= kth), priority == kth
    room = k - above.sum(-1, keepdim=True)
    # keys at the k-th priority, counted from the last one
    count = level.flip(-1).cumsum(-1).flip(-1)
    return (above | (level & (count <= room))) & allowed


def highest_index(priority: Tensor, allowed: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The keys of :func:`highest` as indices.

    Returns:
        ``(index, kept)``: int64 and bool ``[..., min(k, keys)]``; entries that are not ``kept`` (the row has
        fewer than ``k`` allowed keys) hold an arbitrary valid index.
    """
    keys = priority.shape[-1]
    priority = priority.masked_fill(~allowed, -torch.inf)
    if k >= keys:
        index = torch.arange(keys, device=priority.device).expand(priority.shape)
        return index, priority != -torch.inf
    if priority.device.type != "cpu":  # where looking for ties would synchronize
        index = _later_first(priority, k)
        return index, priority.gather(-1, index) != -torch.inf
    # one value more than wanted shows where the boundary falls into a tie
    values, index = priority.topk(k + 1, dim=-1)
    tied = (values[..., k - 1] == values[..., k]) & (values[..., k] != -torch.inf)
    index = index[..., :k].clone()
    if tied.any():
        index[tied] = _later_first(priority[tied], k)
    return index, values[..., :k] != -torch.inf


def _later_first(priority: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` highest of every row, of equal ones the later, by sorting the whole row."""
    return priority.shape[-1] - 1 - priority.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :k]
