"""Base of the selections whose number of keys depends on the scores: a limit lets kernels over lists compute them.

With ``max_keys`` a kernel finds the highest-scoring keys of every query, one more than the limit, and the mechanism
decides among them. That is exact, or refused where a query needs more keys than the limit. To cut such rows off would
be another mechanism, which nobody asked for; to compute them by the formula would take the memory of all scores just
where there are many.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.problem import Problem
from ..attention.tracers import tracer
from .base import Select
from .by_score import ByScore
from .declare import count

AT_ONCE = 1 << 22
"""Scores, or entries of gathered keys, that are held at a time."""


@dataclass(frozen=True, kw_only=True)
class Capped(ByScore):
    """Keys are selected by score, as many as a query needs, or at most ``max_keys``.

    A query that needs more than ``max_keys`` is an error (ValueError), except in compiled and traced graphs, which
    compute it. 0 is no limit, for which back ends compute all scores.
    """

    max_keys: int = count(0, "most keys of a query, an error where it needs more; 0 for no limit", 0, implied=True)

    @abstractmethod
    def among(self, problem: Problem, ordered: Tensor) -> Tensor:
        """Which of its highest-scoring keys a query keeps.

        Args:
            problem: the problem.
            ordered: their scores ``[batch, heads, queries, slots]``, highest first, -inf in empty slots.

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
        index = select(problem, self.asks(problem), 1)
        batch, heads, queries, keys = problem.shape
        step = max(1, AT_ONCE // (batch * heads * max(keys, index.shape[3] * problem.query.shape[3])))
        parts = [
            self._kept(problem.rows(start, min(start + step, queries)), index[:, :, start : start + step])
            for start in range(0, queries, step)
        ]
        return torch.cat(parts, 2)[..., : self.max_keys].contiguous()

    def refuse_more(self, keep: Tensor) -> Tensor:
        """``keep``, bool ``[..., keys]``.

        Raises:
            ValueError: a query keeps more than ``max_keys``.
        """
        if self.max_keys and tracer() is None and keep.numel() and (most := int(keep.sum(-1).max())) > self.max_keys:
            raise ValueError(
                f"{self.name}: max_keys={self.max_keys}, but a query needs {most} keys or more; expected a higher "
                "limit, or none (max_keys=0), for which all scores are computed"
            )
        return keep

    def _kept(self, problem: Problem, index: Tensor) -> Tensor:
        """Those of the listed keys that are kept, highest score first, -1 in empty slots."""
        columns = index.sort(-1, descending=True).values  # of equal scores the later key
        scores, order = _scores(problem, columns).sort(dim=-1, descending=True, stable=True)
        columns = columns.gather(-1, order)
        keep = self.refuse_more(self.among(problem, scores) & (columns >= 0))
        return columns.masked_fill(~keep, -1)


def _scores(problem: Problem, index: Tensor) -> Tensor:
    """The scores of the listed keys: NaN as infinity, -inf in empty slots."""
    rows = index.clamp(min=0).long().flatten(2).unsqueeze(-1).expand(-1, -1, -1, problem.key.shape[3])
    keys = problem.repeat_heads(problem.key).gather(2, rows).unflatten(2, index.shape[2:])
    query = problem.query.to(problem.compute_dtype) * problem.scale
    scores = (keys @ query.unsqueeze(-1)).squeeze(-1)
    return scores.nan_to_num(torch.inf, torch.inf, -torch.inf).masked_fill(index < 0, -torch.inf)


def _source(mechanism: Capped, method: str) -> type:
    """The class that defines a method of a mechanism."""
    return next(cls for cls in type(mechanism).__mro__ if method in vars(cls))
