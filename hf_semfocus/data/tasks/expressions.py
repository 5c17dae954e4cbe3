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


def evaluate(text: str, operators: str) -> int:
    """Value mod 5 of an expression, by recursive descent over integers.

    Raises: ValueError naming the position if `text` is not an expression of the grammar.
    """
    value, end = _expression(text, 0, operators)
    _expect(text, end, "the end", end == len(text))
    return value % MODULUS


def _expression(text: str, start: int, operators: str) -> tuple[int, int]:
    """Value of the expression that begins at `start`, and the position after it."""
    if text[start : start + 1] != "(":
        return _signed_digit(text, start)
    left, end = _expression(text, start + 1, operators)
    if text[end : end + 1] == ")":
        _expect(text, end, f"one of {list(operators)}", text[start + 1] != "(")
        return left, end + 1
    op = text[end : end + 1]
    _expect(text, end, f"')' or one of {list(operators)}", op != "" and op in operators)
    right, end = _expression(text, end + 1, operators)
    _expect(text, end, "')'", text[end : end + 1] == ")")
    return _OPERATIONS[op](left, right), end + 1


def _signed_digit(text: str, start: int) -> tuple[int, int]:
    at = start + text[start:].startswith("-")
    digit = text[at : at + 1]
    _expect(text, at, "a digit", digit != "" and digit in DIGITS)
    return (int(digit) if at == start else -int(digit)), at + 1


def _expect(text: str, at: int, what: str, found: bool) -> None:
    if not found:
        raise ValueError(f"expected {what} at position {at} of {text!r}")
