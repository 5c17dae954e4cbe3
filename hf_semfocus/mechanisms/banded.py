"""Banded attention: a query keeps the keys of a window around it.

Source: "Transformers Learn Faster with Semantic Focus" (arXiv 2506.14095), windowed mask; its band is shifted at
the borders, not cut, so that every row keeps exactly ``window`` keys.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

from .declare import choice, count
from .global_tokens import GlobalTokens, run
from .registry import register

Numbers = TypeVar("Numbers", Tensor, np.ndarray)


@register("banded_sparse")
@dataclass(frozen=True, kw_only=True)
class Banded(GlobalTokens):
    """Every query keeps ``window`` keys: ``(window - 1) // 2`` before it, itself, and the rest after it.

    Causal: the last ``window`` keys, itself included. The default of 64 keeps as many keys as top-k does by default.
    """

    sized_by = "window"

    window: int = count(64, "keys of the band")
    edge: str = choice("shifted", ("shifted", "cut"), "what a bidirectional band does at the borders")

    def anchored(self, causal: bool) -> bool:
        return self.num_global_tokens > 0 or (self.edge == "shifted" and not causal)

    def local(self, query: Tensor, key: Tensor, length: Tensor, causal: bool) -> Tensor:
        first = self._first(query, length, causal)
        return (key >= first) & (key < first + self.window)

    def near(self, query: Tensor, length: Tensor, keys: int, causal: bool) -> Tensor:
        return self._first(query, length, causal).clamp(min=0) + run(self.window, keys, query.device)

    def local_budget(self, length: int) -> int:
        return min(self.window, length)

    def _first(self, query: Numbers, length: Numbers | int, causal: bool) -> Numbers:
        if causal:
            return query - (self.window - 1)
        first = query - (self.window - 1) // 2
        return first.clip(max=length - self.window).clip(min=0) if self.edge == "shifted" else first
