"""Bottom-k attention: a query keeps the k keys it scores lowest. A negative control for top-k.

Source: "Transformers Learn Faster with Semantic Focus" (arXiv 2506.14095), bottom-k ablation.
"""

from dataclasses import dataclass

from torch import Tensor

from ..attention.positions import Positions
from .by_score import ByScore
from .declare import count
from .registry import register


@register("bottomk_sparse")
@dataclass(frozen=True, kw_only=True)
class BottomK(ByScore):
    """Every query keeps its ``k`` lowest-scoring keys, as many by default as top-k to compare like with like."""

    by_score = -1

    k: int = count(64, "keys a query keeps")

    def priority(self, scores: Tensor, at: Positions) -> Tensor:
        return -scores
