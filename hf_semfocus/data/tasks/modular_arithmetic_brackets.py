"""Modular arithmetic with brackets: what is the value mod 5 of an expression? Deterministic context-free;
from the Chomsky hierarchy benchmark (arXiv 2207.02098).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import expressions
from .base import Task, register


@register
@dataclass(frozen=True)
class ModularArithmeticBrackets(Task):
    """An expression of max_length characters over + - *; the label is its value mod 5 (arXiv 2506.14095,
    experiments).
    """

    name = "modular_arithmetic_brackets"
    vocabulary = (*expressions.DIGITS, "+", "-", "*", "(", ")")
    num_labels = expressions.MODULUS
    epochs = 600

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[int]]:
        """Evaluate while drawing."""
        ids = {token: i for i, token in enumerate(self.vocabulary)}
        texts, labels = zip(*(expressions.sample(rng, self.max_length, "+-*") for _ in range(size)), strict=True)
        return [[ids[character] for character in text] for text in texts], list(labels)
