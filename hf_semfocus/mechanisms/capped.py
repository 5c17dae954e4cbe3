"""Base of the selections whose number of keys depends on the scores: a limit lets kernels over lists compute them.

With ``max_keys`` a kernel finds the highest-scoring keys of every query, one more than the limit, and the mechanism
decides among them. That is exact, or refused where a query needs more keys than the limit. To cut such rows off would
be another mechanism, which nobody asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.problem import Problem
from ..attention.tracers import tracer
from .by_score import ByScore
from .declare import count
from .select import Select


@dataclass(frozen=True, kw_only=True)
class Capped(ByScore):
    """Keys are selected by score, as many as a query needs, or at most ``max_keys``.

    A query that needs more than ``max_keys`` is an error (ValueError), even one of padding, except in compiled and
    traced graphs, which compute it. 0 is no limit, for which back ends compute all scores.
    """

    max_keys: int = count(0, "most keys of a query, an error where it needs more; 0 for no limit", 0, implied=True)

    @abstractmethod
    def among(self, scores: Tensor, total: Tensor) -> Tensor:
        """Which of its highest-scoring keys a query keeps.

        Args:
            scores: of these keys ``[batch, heads, queries, slots]``, -inf in empty slots; of equal ones the later key
                comes first.
            total: ``[batch, heads, queries, 1]``, the sum of the exponentials of the scores of all keys, divided by
                the highest.

        Returns:
            bool ``[batch, heads, queries, slots]``, anything in empty slots.
        """

    def budget(self, length: int) -> int | None:
        return min(self.max_keys, length) if self.max_keys else None

    def asks(self, problem: Problem) -> int | None:
        plain = problem.bias is None and problem.softcap is None and tracer() is None
        replaced = _source(self, "choose") is not _source(self, "among")
        return min(self.max_keys + 1, problem.shape[3]) if self.max_keys and plain and not replaced else None

    def find(self, problem: Problem, select: Select) -> Tensor:
        index, scores, total = select(problem, self.asks(problem), 1, True)
        index = index.flip(-1)
        scores = scores.flip(-1).nan_to_num(torch.inf, torch.inf, -torch.inf)
        return index.masked_fill(~self.refuse_more(self.among(scores, total) & (index >= 0)), -1)

    def refuse_more(self, keep: Tensor) -> Tensor:
        """``keep``, bool ``[..., keys]``.

        Raises:
            ValueError: a query keeps more than ``max_keys``.
        """
        readable = type(keep) is Tensor and not keep.is_meta and keep.numel() and tracer() is None
        if self.max_keys and readable and int(keep.sum(-1).max()) > self.max_keys:
            raise ValueError(
                f"{self.name}: a query, maybe of padding, needs more keys than max_keys={self.max_keys}; expected a "
                "higher limit, or none (max_keys=0), for which all scores are computed"
            )
        return keep


def _source(mechanism: Capped, method: str) -> type:
    """The class that defines a method of a mechanism."""
    return next(cls for cls in type(mechanism).__mro__ if method in vars(cls))
