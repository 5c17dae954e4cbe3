"""Arithmetic mod 5 with brackets: the grammar that modular_arithmetic_brackets and solve_equation share.

An expression of n characters is
    d                     n = 1
    -d                    n = 2
    (d)                   n = 3
    (-d)                  n = 4
    (left op right)       n > 4, |left| uniform in 1..n - 4, op uniform
with uniform digits d in 0..4 (arXiv 2506.14095, experiments; arXiv 2207.02098). Every operation has its own
brackets, so no operator binds tighter than another.
"""

from __future__ import annotations

import operator

import numpy as np

MODULUS = 5
DIGITS = "01234"
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def sample(rng: np.random.Generator, length: int, operators: str) -> tuple[str, int]:
    """Draw an expression of `length` >= 1 characters over `operators`; returns it and its value mod 5."""
    if length > 4:
        left_length = int(rng.integers(1, length - 3))
        left, a = sample(rng, left_length, operators)
        right, b = sample(rng, length - 3 - left_length, operators)
        op = operators[rng.integers(len(operators))]
        return f"({left}{op}{right})", _OPERATIONS[op](a, b) % MODULUS
    digit = int(rng.integers(MODULUS))
    text = ("{}", "-{}", "({})", "(-{})")[length - 1].format(digit)
    return text, (digit if length % 2 else -digit) % MODULUS
