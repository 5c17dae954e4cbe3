"""Even pairs: is the number of unequal neighbors odd? Regular; from the Chomsky hierarchy benchmark
(arXiv 2207.02098).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Task, register


@register
@dataclass(frozen=True)
class EvenPairs(Task):
    """Uniform bits; the label is the number of pairs 01 and 10 mod 2 (arXiv 2506.14095, experiments)."""

    name = "even_pairs"
    vocabulary = ("0", "1")
    num_labels = 2
    epochs = 100

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[int]]:
        """Count the unequal neighbors."""
        bits = rng.integers(0, 2, (size, self.max_length))
        unequal = bits[:, 1:] != bits[:, :-1]
        return bits.tolist(), (unequal.sum(axis=1) % 2).tolist()
