"""Top-p attention: a query keeps the fewest highest-scoring keys that hold a share ``p`` of its softmax.

Source: nucleus sampling (arXiv 1904.09751) over keys, as in "Twilight: Adaptive Attention Sparsity with Hierarchical
Top-p Pruning" (arXiv 2502.02770).
"""

from dataclasses import dataclass

from torch import Tensor

from ..attention.positions import Positions
from ..attention.selection import holding
from .by_score import ByScore
from .declare import real
from .registry import register


@register("topp_sparse")
@dataclass(frozen=True, kw_only=True)
class TopP(ByScore):
    """Every query keeps the fewest highest-scoring keys whose weights in full attention sum to at least ``p``.

    At least one. The softmax is over all keys that the query may see, without sink logits.
    """

    p: float = real(0.9, "share of the softmax that is kept", above=0.0, maximum=1.0)

    def choose(self, scores: Tensor, allowed: Tensor, at: Positions | None) -> Tensor:
        return holding(self.p, scores, allowed)
