"""Cycle navigation: where does a walk on a cycle of five places end? Regular; from the Chomsky hierarchy
benchmark (arXiv 2207.02098).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Task, register

_CYCLE = 5


@register
@dataclass(frozen=True)
class CycleNavigation(Task):
    """Uniform steps; token t moves by t - 1 from place 0, the label is the last place (arXiv 2506.14095,
    experiments).
    """

    name = "cycle_navigation"
    vocabulary = ("-1", "0", "+1")
    num_labels = _CYCLE
    epochs = 750
    separator = " "

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[int]]:
        """Add up the steps."""
        steps = rng.integers(0, 3, (size, self.max_length))
        return steps.tolist(), ((steps - 1).sum(axis=1) % _CYCLE).tolist()
