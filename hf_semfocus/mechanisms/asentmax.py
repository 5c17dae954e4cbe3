"""Adaptive-scalable entmax attention: entmax of scores whose scale is learned and grows with the number of keys.

    entmax((delta + beta * (log n) ** gamma) * s),  n: the number of keys that the query sees

Source: "Long-Context Generalization with Sparse Attention" (arXiv 2506.16640), which computes beta and gamma from
every query; here each head has one of both.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .declare import real
from .entmax import Entmax
from .registry import register


class Scale(nn.Module):
    """The learned part of the scale of the scores, per head.

    Args:
        heads: number of query heads.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.beta = nn.Parameter(torch.empty(heads, 1, 1))
        self.gamma = nn.Parameter(torch.empty(heads, 1, 1))

    def reset_parameters(self) -> None:
        """Begin with no scale at all."""
        nn.init.zeros_(self.beta)
        nn.init.ones_(self.gamma)

    def forward(self, seen: Tensor) -> Tensor:
        """``beta * (log seen) ** gamma`` in the type of ``seen``; of one key, whose weight is 1 anyway, as of two."""
        if seen.shape[1] not in (1, len(self.beta)):
            raise ValueError(f"asentmax_sparse has parameters of {len(self.beta)} heads; expected {seen.shape[1]}")
        return self.beta.to(seen.dtype) * seen.clamp(min=2).log() ** self.gamma.to(seen.dtype)


@register("asentmax_sparse")
@dataclass(frozen=True, kw_only=True)
class ASEntmax(Entmax):
    """Every query keeps the keys that ``alpha``-entmax of scores at a learned scale gives a positive weight.

    The scale is ``delta + beta * (log n) ** gamma`` of the ``n`` keys that a query sees, sink logits counted, with
    parameters ``beta`` and ``gamma`` per head. They begin with 0 and 1: with ``delta=1``, as ``entmax_sparse``.
    """

    delta: float = real(1.0, "scale that is not learned", above=0.0)

    def create_state(self, layer: nn.Module, config: Any) -> nn.Module:
        return Scale(config.num_attention_heads)

    def normalize(self, scores: Tensor, keep: Tensor) -> Tensor:
        seen = keep.expand(scores.shape).sum(-1, keepdim=True).to(scores.dtype)
        return super().normalize(scores * (self.delta + self.state(seen)), keep)
