"""Sink attention: a query keeps the first keys, on which trained models put the weight that nothing else should get.

Source: "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453), where they join a window:
``sink_sparse:first=4+banded_sparse:window=64``.
"""

from dataclasses import dataclass

from torch import Tensor

from ..attention.positions import Positions
from .base import Mechanism
from .declare import count
from .global_tokens import run
from .registry import register


@register("sink_sparse")
@dataclass(frozen=True, kw_only=True)
class Sink(Mechanism):
    """Every query keeps the ``first`` keys that it sees; for unions with other mechanisms."""

    sized_by = "first"

    first: int = count(4, "keys at the start of the sequence")

    @property
    def by_layer(self) -> bool:
        return False

    def pattern(self, at: Positions) -> Tensor:
        return at.key < self.first

    def reach(self, at: Positions) -> Tensor:
        first = run(self.first, at.key.shape[-1], at.length.device)
        return first.expand(*at.length.shape[:-1], -1)

    def budget(self, length: int) -> int:
        return min(self.first, length)
