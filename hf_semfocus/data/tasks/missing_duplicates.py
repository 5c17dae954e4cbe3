"""Missing duplicates: which bit is hidden in a string that repeats itself? Context-sensitive; from the
Chomsky hierarchy benchmark (arXiv 2207.02098).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Task, register

_HIDDEN = 2


@register
@dataclass(frozen=True)
class MissingDuplicates(Task):
    """Uniform bits, repeated once, one uniform position hidden; the label is the hidden bit.

    ValueError if max_length is odd (arXiv 2506.14095, experiments).
    """

    name = "missing_duplicates"
    vocabulary = ("0", "1", "?")
    num_labels = 2
    epochs = 250
    shortest = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length % 2:
            raise ValueError(f"{self.name}: max_length={self.max_length}, expected an even number")

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[int]]:
        """Write the string twice, note the bit, then hide it."""
        half = self.max_length // 2
        # One call for all draws keeps the first rows the same whatever the size.
        draws = rng.integers(0, [2] * half + [self.max_length], (size, half + 1))
        rows = np.concatenate([draws[:, :half], draws[:, :half]], axis=1)
        hidden = (np.arange(size), draws[:, half])
        labels = rows[hidden].tolist()
        rows[hidden] = _HIDDEN
        return rows.tolist(), labels
