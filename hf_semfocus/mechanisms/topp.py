"""Top-p attention: a query keeps the fewest highest-scoring keys that hold a share ``p`` of its softmax.

Source: nucleus sampling (arXiv 1904.09751) over keys, as in "Twilight: Adaptive Attention Sparsity with Hierarchical
Top-p Pruning" (arXiv 2502.02770).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.positions import Positions
from ..attention.selection import holding
from .capped import Capped
from .declare import real
from .registry import register


@register("topp_sparse")
@dataclass(frozen=True, kw_only=True)
class TopP(Capped):
    """Every query keeps the fewest highest-scoring keys whose weights in full attention sum to at least ``p``.

    At least one. The softmax is over all keys that the query may see, without sink logits.
    """

    p: float = real(0.9, "share of the softmax that is kept", above=0.0, maximum=1.0)

    def choose(self, scores: Tensor, allowed: Tensor, at: Positions | None) -> Tensor:
        return self.refuse_more(holding(self.p, scores, allowed))

    def among(self, scores: Tensor, total: Tensor) -> Tensor:
        if self.p == 1:
            return torch.ones_like(scores, dtype=torch.bool)
        ordered, order = scores.sort(dim=-1, descending=True, stable=True)
        short = ((ordered - ordered[..., :1]).exp() / total).cumsum(-1) < self.p  # not where it is NaN
        needed = torch.cat([torch.ones_like(short[..., :1]), short[..., :-1]], -1)
        return torch.zeros_like(needed).scatter(-1, order, needed)
