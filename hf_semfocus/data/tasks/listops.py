"""ListOps: what is the value of a nested list operation? From the Long Range Arena (arXiv 2011.04006), after
Nangia and Bowman (arXiv 1804.06028).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .base import Task, register

_MIN, _MAX, _MED, _SM, _CLOSE = range(10, 15)
_DIGIT_PROBABILITY = 0.75
# Trees drawn at a time, and how many times in a row none may be usable before the window counts as empty.
_DRAWN, _PATIENCE = 1 << 14, 64


@register
@dataclass(frozen=True)
class ListOps(Task):
    """Trees of MIN, MAX, MED (int of the median) and SM (sum mod 10) over digits; the label is the value.

    A node is a digit with probability 0.75, and always at `max_depth`; else a uniform operator of uniformly
    2..`max_args` nodes. Trees of `min_length`..`max_length` tokens are kept (a digit is one token, an
    operator two more than its arguments), each at most once in a split (arXiv 2506.14095, experiments).
    ValueError if the window of lengths or the tree's limits are empty.
    """

    name = "listops"
    vocabulary = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
    num_labels = 10
    num_layers = 10
    learning_rate = 1.0
    lr_decay = 0.99
    epochs = 200
    separator = " "

    max_length: int = 599
    min_length: int = 501
    max_depth: int = 10
    max_args: int = 10

    def __post_init__(self) -> None:
        if not (1 <= self.min_length <= self.max_length and self.max_depth >= 1 and self.max_args >= 2):
            raise ValueError(f"{self}: expected 1 <= min_length <= max_length, max_depth >= 1, max_args >= 2")

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[int]]:
        """Draw shapes until `size` distinct trees fit the window, and evaluate while writing them down.

        This is plain rejection, so exact; it is fast because only shapes are drawn and thrown away, many at a
        time. Digits and operators do not change a tree's length and are drawn for the trees that are kept.

        Raises: ValueError if the window holds too few trees.
        """
        found: dict[tuple[int, ...], int] = {}
        barren = 0
        while barren < _PATIENCE:
            before = len(found)
            for shape in self._shapes(rng):
                tokens, value = _write(shape, rng)
                found.setdefault(tokens, value)
                if len(found) == size:
                    return [list(tokens) for tokens in found], list(found.values())
            barren = barren + 1 if len(found) == before else 0
        raise ValueError(f"{self} has too few trees: found {len(found)} of {size}")

    def _shapes(self, rng: np.random.Generator) -> Iterator[list[list[int]]]:
        """Shapes in the window: per depth, each node's number of arguments from the left, 0 for a digit."""
        length = np.zeros(_DRAWN, dtype=np.int64)
        owner = np.arange(_DRAWN)
        depths = []
        for depth in range(1, self.max_depth + 1):
            inner = rng.random(owner.size) >= _DIGIT_PROBABILITY
            inner &= depth < self.max_depth
            arguments = np.zeros(owner.size, dtype=np.int64)
            arguments[inner] = rng.integers(2, self.max_args + 1, inner.sum())
            depths.append((owner, arguments))
            length += np.bincount(owner, 1 + inner, _DRAWN).astype(np.int64)
            owner = np.repeat(owner, arguments)
            # Every pending node adds a token at least: a tree that is already too long stops growing here.
            too_long = length + np.bincount(owner, minlength=_DRAWN) > self.max_length
            length[too_long] = self.max_length + 1
            owner = owner[~too_long[owner]]
        for tree in np.flatnonzero((self.min_length <= length) & (length <= self.max_length)):
            spans = (np.searchsorted(owner, (tree, tree + 1)) for owner, _ in depths)
            yield [counts[a:b].tolist() for (a, b), (_, counts) in zip(spans, depths, strict=True)]


def _write(shape: list[list[int]], rng: np.random.Generator) -> tuple[tuple[int, ...], int]:
    """Fill a shape with uniform digits and operators; returns its tokens and value."""
    counts = [iter(depth) for depth in shape]
    nodes = sum(map(len, shape))
    digits, operators = (
        iter(rng.integers(0, 10, nodes).tolist()),
        iter(rng.integers(_MIN, _CLOSE, nodes).tolist()),
    )
    tokens: list[int] = []

    def node(depth: int) -> int:
        arguments = next(counts[depth])
        tokens.append(next(operators if arguments else digits))
        if not arguments:
            return tokens[-1]
        operator = tokens[-1]
        values = [node(depth + 1) for _ in range(arguments)]
        tokens.append(_CLOSE)
        if operator == _MED:
            return int(statistics.median(values))
        return min(values) if operator == _MIN else max(values) if operator == _MAX else sum(values) % 10

    value = node(0)
    return tuple(tokens), value
