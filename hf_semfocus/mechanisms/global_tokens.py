"""Global tokens: a few positions that see all and are seen by all, with a pattern over the others.

Source: "Transformers Learn Faster with Semantic Focus" (arXiv 2506.14095), global tokens of the banded and
block-local masks (there appended at the end of the sequence).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.positions import Positions
from .base import Mechanism
from .declare import choice, count


def run(count: int, keys: int, device: torch.device) -> Tensor:
    """The first ``count`` positions, at most ``keys``."""
    return torch.arange(min(count, keys), device=device)


@dataclass(frozen=True, kw_only=True)
class GlobalTokens(Mechanism):
    """Base of the local patterns: ``num_global_tokens`` positions are exempt from the pattern.

    Causal: only the first positions can be global, and all later queries see them.
    """

    num_global_tokens: int = count(0, "positions that see all and are seen by all", minimum=0)
    global_position: str = choice("first", ("first", "last"), "the end of the sequence where they are")

    @property
    def by_layer(self) -> bool:
        # ``local`` gets no layer
        slots = ("pattern", "reach", "sees_all")
        return any(getattr(type(self), slot) is not getattr(GlobalTokens, slot) for slot in slots)

    def local(self, query: Tensor, key: Tensor, length: Tensor, causal: bool) -> Tensor:
        """The pattern over the other tokens, from their positions and number."""
        raise NotImplementedError

    def near(self, query: Tensor, length: Tensor, keys: int, causal: bool) -> Tensor:
        """Positions among the other tokens that ``local`` may keep, ``[..., queries, few]``.

        ``keys`` is an upper limit of all lengths, known without reading data.
        """
        raise NotImplementedError

    def local_budget(self, length: int) -> int:
        """The most keys that ``local`` keeps of ``length`` other tokens, causal or not."""
        raise NotImplementedError

    def budget(self, length: int) -> int:
        g = min(self.num_global_tokens, length)
        return g + self.local_budget(length - g)

    def reach(self, at: Positions) -> Tensor:
        g, keys = self.num_global_tokens, at.key.shape[-1]
        everywhere = run(g, keys, at.length.device)
        if self.global_position == "first":
            local = g + self.near(at.query - g, at.length - g, keys, at.causal)
        else:
            local = self.near(at.query, at.length - g, keys, at.causal)
            everywhere = (at.length - g).clamp(min=0) + everywhere
        return torch.cat([everywhere.expand(*local.shape[:-1], -1), local], -1)

    def sees_all(self, at: Positions) -> Tensor | None:
        g = self.num_global_tokens
        if g == 0 or at.causal:  # causal global tokens only see each other
            return None
        return at.query < g if self.global_position == "first" else at.query >= at.length - g

    def pattern(self, at: Positions) -> Tensor:
        g = self.num_global_tokens
        if g == 0:
            return self.local(at.query, at.key, at.length, at.causal)
        if self.global_position == "first":
            local = self.local(at.query - g, at.key - g, at.length - g, at.causal)
            return local | (at.query < g) | (at.key < g)
        if at.causal:
            raise ValueError(
                f"{self.name}: global_position='last' with causal attention puts the global tokens into every "
                "query's future; expected 'first'"
            )
        others = at.length - g
        return self.local(at.query, at.key, others, at.causal) | (at.query >= others) | (at.key >= others)
