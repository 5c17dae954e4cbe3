"""Parity: is the number of ones odd? Regular; from the Chomsky hierarchy benchmark (arXiv 2207.02098)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Task, register


@register
@dataclass(frozen=True)
class Parity(Task):
    """Uniform bits; the label is the number of ones mod 2 (arXiv 2506.14095, experiments)."""

    name = "parity"
    vocabulary = ("0", "1")
    num_labels = 2
    epochs = 1000

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[int]]:
        """Sum the bits."""
        bits = rng.integers(0, 2, (size, self.max_length))
        return bits.tolist(), (bits.sum(axis=1) % 2).tolist()
