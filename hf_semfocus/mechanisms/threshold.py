"""Threshold attention: a query keeps the keys that score almost as high as the best, ``S_ij >= max S_i - margin``.

The ratio of two kept weights is at most ``exp(margin)``, however long the sequence is, and the scores that are kept
have a dispersion (maximum minus minimum) of at most ``margin``. Source: the dispersion of scores in the theory of
"Transformers Learn Faster with Semantic Focus" (arXiv 2506.14095).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.positions import Positions
from .capped import Capped
from .declare import real
from .registry import register


@register("threshold_sparse")
@dataclass(frozen=True, kw_only=True)
class Threshold(Capped):
    """Every query keeps the keys that it scores at most ``margin`` below its highest-scoring key.

    The default drops keys with less than ``exp(-4)`` = 1.8% of the largest weight.
    """

    margin: float = real(4.0, "largest distance from the highest score", minimum=0.0)

    def choose(self, scores: Tensor, allowed: Tensor, at: Positions | None) -> Tensor:
        scores = scores.nan_to_num(torch.inf, torch.inf, -torch.inf)
        highest = scores.masked_fill(~allowed, -torch.inf).amax(-1, keepdim=True)
        return self.refuse_more(allowed & ~(scores < highest - self.margin))

    def among(self, scores: Tensor, total: Tensor) -> Tensor:
        return ~(scores < scores.amax(-1, keepdim=True) - self.margin)
