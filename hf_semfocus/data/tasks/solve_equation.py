"""Solve equation: which digit does x stand for? Deterministic context-free; from the Chomsky hierarchy
benchmark (arXiv 2207.02098).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import expressions
from .base import Task, register


@register
@dataclass(frozen=True)
class SolveEquation(Task):
    """An expression over + - with one digit hidden by x, then = and its value; the label is the hidden digit
    (arXiv 2506.14095, experiments).

    The expression has max_length - 2 characters. Which digit is hidden follows the benchmark: the first digit
    at or after a uniform position, cyclically. Without * the solution is unique.
    """

    name = "solve_equation"
    vocabulary = (*expressions.DIGITS, "+", "-", "(", ")", "x", "=")
    num_labels = expressions.MODULUS
    epochs = 600
    shortest = 3

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[int]]:
        """Hide a digit of an expression whose value is known."""
        ids = {token: i for i, token in enumerate(self.vocabulary)}
        rows, labels = [], []
        for _ in range(size):
            text, value = expressions.sample(rng, self.max_length - 2, "+-")
            at = int(rng.integers(len(text)))
            while text[at] not in expressions.DIGITS:
                at = (at + 1) % len(text)
            labels.append(int(text[at]))
            rows.append([ids[character] for character in f"{text[:at]}x{text[at + 1 :]}={value}"])
        return rows, labels
