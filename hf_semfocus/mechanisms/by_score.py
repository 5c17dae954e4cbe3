"""Base of the mechanisms that select keys by their scores: how the selection, a step function, is differentiated.

Source: the straight-through estimator of Bengio et al. (arXiv 1308.3432), applied to the attention weights.
"""

from dataclasses import dataclass

from .base import STRAIGHT_THROUGH, Mechanism
from .declare import choice


@dataclass(frozen=True, kw_only=True)
class ByScore(Mechanism):
    """Keys are selected by score.

    ``gradient="hard"`` differentiates what is computed: scores of dropped keys get no gradient.
    ``"straight_through"`` computes the same, with ``weights = dense + stop_gradient(sparse - dense)``: scores get the
    gradient of softmax over all visible keys, values that of the sparse weights, by which they were multiplied.
    """

    gradient: str = choice(
        "hard",
        ("hard", STRAIGHT_THROUGH),
        "what the scores' gradients are of: the kept keys, or softmax over all",
        True,
    )
