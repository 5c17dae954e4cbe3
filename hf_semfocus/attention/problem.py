"""One attention problem: what callers provide and backends compute."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .positions import Positions
from .visibility import Visibility


@dataclass(frozen=True)
class Problem:
    """Queries, keys, values and everything else that determines attention, except the mechanism.

    Args:
        query: floating ``[batch, heads, queries, head_dim]``.
        key: ``[batch, kv_heads, keys, head_dim]``; ``kv_heads`` divides ``heads``.
        value: ``[batch, kv_heads, keys, value_dim]``.
        visibility: which keys every query may see.
        scale: factor of the scores.
        bias: floating, broadcastable to the scores, added to them; None for none.
        softcap: scores become ``softcap * tanh(scores / softcap)`` before the bias; None for none.
        sinks: ``[heads]``, one extra logit per head in the softmax, without a value.
        dropout_p: probability that a weight is dropped.
        layer: index of the layer, 0 where unknown.
        draw: see :class:`.Positions`.
        heads: indices of the query heads in the layer, where they are not all; None for all.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    visibility: Visibility
    scale: float
    bias: Tensor | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    dropout_p: float = 0.0
    layer: int = 0
    draw: Tensor | int = 0
    heads: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(batch, heads, queries, keys)``."""
        return (*self.query.shape[:3], self.key.shape[2])

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of scores and weights: float32, or float64 for float64 queries."""
        return torch.promote_types(self.query.dtype, torch.float32)

    @property
    def allowed(self) -> Tensor:
        """Keys a query may see: bool, broadcastable to ``[batch, heads, queries, keys]``."""
        return self.visibility.allowed(self.key.shape[2])

    def positions(self) -> Positions:
        """Logical positions of these rows."""
        at = self.visibility.positions(self.key.shape[2], self.query.shape[1], self.layer)
        if self.heads is not None:
            at = at._replace(head=torch.tensor(self.heads, device=self.query.device).view(1, -1, 1, 1))
        return at._replace(draw=self.draw)

    def drawn(self) -> Problem:
        """The same problem with a ``draw`` from PyTorch's random numbers, as dropout takes them."""
        return replace(self, draw=torch.randint(1, 2**31, (), device=self.query.device))

    def blank_unseen(self) -> Problem:
        """The same problem with zeros in the keys and values that no query may see.

        The empty end of a cache may hold anything, and 0 times NaN is NaN.
        """
        seen = self.visibility.seen(self.key.shape[2])
        if seen is None:
            return self
        # a key is visible where any query head of its group sees it
        kv_heads = self.key.shape[1]
        if seen.shape[1] not in (1, kv_heads):
            seen = seen.unflatten(1, (kv_heads, -1)).any(2)
        hidden = ~seen.unsqueeze(-1)
        return replace(self, key=self.key.masked_fill(hidden, 0.0), value=self.value.masked_fill(hidden, 0.0))

    def repeat_heads(self, tensor: Tensor) -> Tensor:
        """``[batch, kv_heads, ...]`` -> ``[batch, heads, ...]`` in the compute type."""
        groups = self.query.shape[1] // tensor.shape[1]
        return (tensor if groups == 1 else tensor.repeat_interleave(groups, 1)).to(self.compute_dtype)

    def scores(self) -> Tensor:
        """Scores ``q k^T * scale`` with softcap and bias, unmasked: ``[batch, heads, queries, keys]``."""
        query = self.query.to(self.compute_dtype) * self.scale
        return self.adjust(query @ self.repeat_heads(self.key).transpose(-1, -2), self.bias)

    def adjust(self, scores: Tensor, bias: Tensor | None) -> Tensor:
        """Apply softcap, then ``bias``, to scaled scores."""
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        return scores if bias is None else scores + bias

    def among(self, keys: Tensor) -> Problem:
        """The same problem with no other keys than ``keys``, bool that broadcasts to the scores."""
        seen = self.visibility
        return replace(self, visibility=replace(seen, mask=keys if seen.mask is None else seen.mask & keys))

    def of_heads(self, heads: tuple[int, ...] | None) -> Problem:
        """The same problem for some of its query heads, with the key heads that they share; None for all."""
        if heads is None:
            return self
        size = self.query.shape[1] // self.key.shape[1]
        shared = tuple([head // size for head in heads[::size]])
        whole = tuple([head for group in shared for head in range(group * size, (group + 1) * size)]) == heads
        kv_heads = shared if whole else tuple([head // size for head in heads])

        def cut(tensor: Tensor | None) -> Tensor | None:
            varies = tensor is not None and tensor.dim() > 2 and tensor.shape[-3] != 1
            return _take(tensor, heads, -3) if varies else tensor

        return replace(
            self,
            query=_take(self.query, heads, 1),
            key=_take(self.key, kv_heads, 1),
            value=_take(self.value, kv_heads, 1),
            visibility=replace(self.visibility, mask=cut(self.visibility.mask)),
            bias=cut(self.bias),
            sinks=None if self.sinks is None else _take(self.sinks, heads, 0),
            heads=heads,
        )

    def rows(self, start: int, stop: int) -> Problem:
        """The same problem for the queries ``start`` to ``stop - 1``."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or tensor.shape[-2] == 1 else tensor[..., start:stop, :]

        return replace(
            self,
            query=self.query[:, :, start:stop],
            visibility=self.visibility.rows(start, stop),
            bias=cut(self.bias),
        )


def _take(tensor: Tensor, numbers: tuple[int, ...], dim: int) -> Tensor:
    """``tensor`` at ``numbers`` of a dimension; a view where they follow each other."""
    if numbers == tuple(range(numbers[0], numbers[0] + len(numbers))):
        return tensor.narrow(dim, numbers[0], len(numbers))
    return tensor.index_select(dim, torch.tensor(numbers, device=tensor.device))
