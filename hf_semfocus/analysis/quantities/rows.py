"""The scores of some queries, and what several quantities take from them, made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...attention.problem import Problem
from ...mechanisms import Mechanism

SORTED_SHARE = 8
"""All scores are sorted where more than one in so many is needed."""


@dataclass
class Rows:
    """Some queries of a problem, all heads; tensors are ``[batch, heads, queries, keys]`` unless said otherwise.

    Args:
        problem: of these queries.
        mechanism: which says what they keep.
    """

    problem: Problem
    mechanism: Mechanism
    _top: Tensor | None = None

    @cached_property
    def scores(self) -> Tensor:
        """Scaled scores with softcap and bias; without meaning where a key is not visible."""
        return self.problem.scores()

    @cached_property
    def visible(self) -> Tensor:
        """bool: keys that a query may see."""
        return self.problem.allowed.expand(self.scores.shape)

    @cached_property
    def kept(self) -> Tensor:
        """bool: keys that a query keeps."""
        at = self.problem.positions() if self.mechanism.positional else None
        return self.mechanism.keep(self.scores, self.problem.allowed, at).expand(self.scores.shape)

    @cached_property
    def visible_count(self) -> Tensor:
        """int64 ``[batch, heads, queries]``."""
        return self.visible.sum(-1)

    @cached_property
    def kept_count(self) -> Tensor:
        """int64 ``[batch, heads, queries]``."""
        return self.kept.sum(-1)

    @cached_property
    def weights(self) -> Tensor:
        """Dense softmax over the visible keys, without sinks; NaN where there are none."""
        return self.scores.masked_fill(~self.visible, -torch.inf).softmax(-1)

    def top(self, count: int) -> Tensor:
        """At least the ``count`` highest scores of visible keys in order, then -inf: ``[..., queries, any]``."""
        count = min(count, self.scores.shape[-1])
        if self._top is None or self._top.shape[-1] < count:
            scores = self.scores.masked_fill(~self.visible, -torch.inf)
            few = count * SORTED_SHARE < scores.shape[-1]
            self._top = (scores.topk(count) if few else scores.sort(-1, descending=True)).values
        return self._top

    def ranked_score(self, rank: Tensor) -> Tensor:
        """The score at a rank, from 1: int64 and floating ``[batch, heads, queries]``; NaN where there is none."""
        top = self.top(int(rank.max()))
        found = top.gather(-1, (rank - 1).clamp(0, top.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
        return found.masked_fill((rank < 1) | (rank > self.visible_count), torch.nan)

    def lowest(self, among: Tensor) -> Tensor:
        """Lowest score of the keys ``among``, bool; ``[batch, heads, queries]``, NaN where there are none."""
        return self._extreme(among, torch.inf, torch.amin)

    def highest(self, among: Tensor) -> Tensor:
        """Highest score of the keys ``among``, bool; ``[batch, heads, queries]``, NaN where there are none."""
        return self._extreme(among, -torch.inf, torch.amax)

    def _extreme(self, among: Tensor, other: float, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
        return reduce(self.scores.masked_fill(~among, other), -1).masked_fill(~among.any(-1), torch.nan)
