"""The scores of some queries, and what several quantities take from them, made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...attention.problem import Problem
from ...mechanisms import Mechanism


@dataclass(frozen=True)
class Rows:
    """Some queries of a problem, all heads; tensors are ``[batch, heads, queries, keys]`` unless said otherwise.

    Args:
        problem: of these queries.
        mechanism: which says what they keep.
    """

    problem: Problem
    mechanism: Mechanism

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
    def descending(self) -> Tensor:
        """Scores of visible keys, the highest first, then -inf."""
        return self.scores.masked_fill(~self.visible, -torch.inf).sort(-1, descending=True).values

    @cached_property
    def weights(self) -> Tensor:
        """Dense softmax over the visible keys, without sinks; NaN where there are none."""
        return self.scores.masked_fill(~self.visible, -torch.inf).softmax(-1)

    def ranked_score(self, rank: Tensor) -> Tensor:
        """The score at a rank, from 1: int64 and floating ``[batch, heads, queries]``; NaN where there is none."""
        index = (rank - 1).clamp(0, self.scores.shape[-1] - 1).unsqueeze(-1)
        found = self.descending.gather(-1, index).squeeze(-1)
        return found.masked_fill((rank < 1) | (rank > self.visible_count), torch.nan)

    def lowest(self, among: Tensor) -> Tensor:
        """Lowest score of the keys ``among``, bool; ``[batch, heads, queries]``, NaN where there are none."""
        return self._extreme(among, torch.inf, torch.amin)

    def highest(self, among: Tensor) -> Tensor:
        """Highest score of the keys ``among``, bool; ``[batch, heads, queries]``, NaN where there are none."""
        return self._extreme(among, -torch.inf, torch.amax)

    def _extreme(self, among: Tensor, other: float, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
        return reduce(self.scores.masked_fill(~among, other), -1).masked_fill(~among.any(-1), torch.nan)
