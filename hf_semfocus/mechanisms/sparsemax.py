"""Sparsemax attention: the projection of the scores onto the simplex. Source: arXiv 1602.02068."""

from dataclasses import dataclass

from .declare import real
from .entmax import Entmax
from .registry import register


@register("sparsemax_sparse")
@dataclass(frozen=True, kw_only=True)
class Sparsemax(Entmax):
    """Every query keeps the keys that sparsemax gives a positive weight, weighed by it: entmax with ``alpha=2``.

    Kept keys score less than 1 below the best one.
    """

    alpha: float = real(2.0, "that of sparsemax", minimum=2.0, maximum=2.0, implied=True)
