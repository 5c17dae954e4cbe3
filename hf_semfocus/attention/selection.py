"""Exact selection of the highest priorities of a row, with a fixed rule for ties.

Of keys with equal priority the later one is kept. The rule looks at the order of the allowed keys only, so
padding or another cache layout cannot change the choice, and a query never keeps more than k keys. NaN counts
as infinity, the highest priority, so that a NaN score shows in the output as in dense attention.
"""

from __future__ import annotations

import torch
from torch import Tensor


def highest(priority: Tensor, allowed: Tensor, k: int) -> Tensor:
    """Keep the ``k`` allowed keys of highest priority in every row, all of them where there are fewer.

    Args:
        priority: floating ``[..., keys]``.
        allowed: bool, broadcastable against ``priority``.
        k: number of keys to keep, at least 1.

    Returns:
        bool tensor of the shape both broadcast to: every key above the k-th highest priority, then of the keys
        equal to it the latest, up to ``k`` in all.
    """
    if k >= allowed.shape[-1]:
        return allowed
    priority = _comparable(priority, allowed)
    return _down_to(priority.topk(k, dim=-1).values[..., -1:], k, priority, allowed)


def highest_of_each(priority: Tensor, allowed: Tensor, k: Tensor, most: int) -> Tensor:
    """:func:`highest` with a number of keys for every row.

    Args:
        priority: floating ``[..., keys]``.
        allowed: bool, broadcastable against ``priority``.
        k: integers ``[..., 1]``, number of keys to keep.
        most: an upper limit of ``k``, known without reading data.
    """
    priority = _comparable(priority, allowed)
    ordered = priority.topk(min(most, priority.shape[-1]), dim=-1).values
    return _down_to(_at(ordered, k), k, priority, allowed)


def holding(mass: float, scores: Tensor, allowed: Tensor) -> Tensor:
    """The fewest keys of highest score that hold a share of the row's softmax, at least one.

    Args:
        mass: above 0; all keys are kept for 1.
        scores: floating ``[..., keys]``.
        allowed: bool, broadcastable against ``scores``: keys of the softmax.
    """
    if mass == 1:
        return allowed
    priority = _comparable(scores, allowed)
    ordered = priority.sort(dim=-1, descending=True).values
    k = (ordered.softmax(-1).cumsum(-1) < mass)[..., :-1].sum(-1, keepdim=True) + 1
    return _down_to(_at(ordered, k), k, priority, allowed)


def _comparable(priority: Tensor, allowed: Tensor) -> Tensor:
    return priority.masked_fill(~allowed, -torch.inf).nan_to_num(torch.inf, torch.inf, -torch.inf)


def _at(ordered: Tensor, k: Tensor) -> Tensor:
    """The k-th entry of every row."""
    return ordered.gather(-1, (k - 1).clamp(0, ordered.shape[-1] - 1).expand(*ordered.shape[:-1], 1))


def _down_to(kth: Tensor, k: int | Tensor, priority: Tensor, allowed: Tensor) -> Tensor:
    """The ``k`` highest of every row, of which the last has priority ``kth``."""
    above, level = priority > kth, (priority == kth) & allowed
    room = k - above.sum(-1, keepdim=True)
    # keys at the k-th priority, counted from the last one
    count = level.flip(-1).cumsum(-1).flip(-1)
    return above | (level & (count <= room))


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
