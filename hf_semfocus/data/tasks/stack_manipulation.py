"""Stack manipulation: what is on top of a stack after some pops and pushes? Deterministic context-free; from
the Chomsky hierarchy benchmark (arXiv 2207.02098).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Task, register

_POP, _PUSH_0, _EMPTY = 2, 3, 2


@register
@dataclass(frozen=True)
class StackManipulation(Task):
    """A stack of bits, bottom first, then actions; the label is the final top, 2 if the stack is empty.

    The stack has uniformly 1..max_length - 1 bits, the rest are uniform actions; a pop of an empty stack does
    nothing (arXiv 2506.14095, experiments).
    """

    name = "stack_manipulation"
    vocabulary = ("0", "1", "pop", "push0", "push1")
    num_labels = 3
    epochs = 200
    separator = " "
    shortest = 2

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[int]]:
        """Run the actions on the stack."""
        # One call for all draws keeps the first rows the same whatever the size. A number below 6 holds a
        # uniform bit (mod 2) and a uniform action (mod 3).
        draws = rng.integers(0, [self.max_length - 1] + [6] * self.max_length, (size, self.max_length + 1))
        height, content = 1 + draws[:, :1], draws[:, 1:]
        rows = np.where(np.arange(self.max_length) < height, content % 2, _POP + content % 3).tolist()
        return rows, [_run(row) for row in rows]


def _run(tokens: list[int]) -> int:
    stack = []
    for token in tokens:
        if token != _POP:
            stack.append(token if token < _POP else token - _PUSH_0)
        elif stack:
            stack.pop()
    return stack[-1] if stack else _EMPTY
