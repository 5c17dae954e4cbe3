"""Which keys every query may see: causality and padding, as callers state and backends query them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .positions import Positions, locate


@dataclass(frozen=True)
class Visibility:
    """Which keys every query may see, before any mechanism chooses among them.

    Args:
        mask: bool, broadcastable to ``[batch, heads, queries, keys]``, True where a query may see a key; None where
            nothing but causality hides keys, so that a key's position is its column.
        first: the column of the first query's own key, followed by those of the other queries; None: every query's
            own key is the last one visible in ``mask``.
        causal: whether no query may see a key after its own. Without ``first`` the mask includes that already.
        queries: number of queries.
        device: device of the tensors.
    """

    mask: Tensor | None
    first: int | None
    causal: bool
    queries: int
    device: torch.device

    @classmethod
    def between(
        cls, queries: int, keys: int, device: torch.device, mask: Tensor | None = None, causal: bool = False
    ) -> Visibility:
        """The queries are the last positions of the keys, as in self-attention and in decoding with a cache."""
        return cls(mask, keys - queries, causal, queries, device)

    @property
    def own(self) -> Tensor | None:
        """The column of every query's own key, int64 ``[queries]``; None where only the mask knows."""
        if self.first is None:
            return None
        return torch.arange(self.first, self.first + self.queries, device=self.device)

    @property
    def limit(self) -> Tensor | None:
        """The last column a query can see, int64 ``[queries]``; None where only the mask knows."""
        return self.own if self.causal else None

    def allowed(self, keys: int) -> Tensor:
        """The keys a query may see: bool, broadcastable to ``[batch, heads, queries, keys]``."""
        if (limit := self.limit) is None:
            return self._everything(keys) if self.mask is None else self.mask
        before = torch.arange(keys, device=self.device) <= limit.unsqueeze(-1)
        return before.view(1, 1, *before.shape) if self.mask is None else self.mask & before

    def seen(self, keys: int) -> Tensor | None:
        """The keys that some query may see: bool, broadcastable to ``[batch, heads, keys]``; None for all."""
        if not self.causal or self.first is None:
            return None if self.mask is None else self.mask.any(-2)
        if self.mask is not None and self.mask.shape[-2] > 1:
            return self.allowed(keys).any(-2)
        # what the last query sees, without a matrix of all pairs
        last = self.first + self.queries - 1 if self.queries else -1
        before = (torch.arange(keys, device=self.device) <= last).view(1, 1, keys)
        return before if self.mask is None else self.mask.squeeze(-2) & before

    def positions(self, keys: int, heads: int, layer: int) -> Positions:
        """Logical positions of queries and keys."""
        unmasked = self.mask is None
        allowed = self._everything(keys) if unmasked else self.allowed(keys)
        return locate(allowed, self.own, self.causal, heads, layer, unmasked)

    def rows(self, start: int, stop: int) -> Visibility:
        """The same for the queries ``start`` to ``stop - 1``."""
        mask = self.mask
        if mask is not None and mask.shape[-2] > 1:
            mask = mask[..., start:stop, :]
        first = None if self.first is None else self.first + start
        return replace(self, mask=mask, first=first, queries=stop - start)

    def _everything(self, keys: int) -> Tensor:
        return torch.ones(1, 1, 1, keys, dtype=torch.bool, device=self.device)
