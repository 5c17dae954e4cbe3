"""Planted: how many of the bits under one key are ones? A known number of positions matters, found by content."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...messages import check_integer
from .base import Task, register

_KEYS = 8


@register
@dataclass(frozen=True)
class Planted(Task):
    """A query, then pairs of a key and a bit, of which exactly `relevant` have the query's key; the label counts ones.

    Query, places and the count are uniform, so every label is as frequent and chance is 1 / (relevant + 1); the other
    pairs have uniform other keys and bits. A head that keeps fewer than `relevant` keys cannot see all that the label
    depends on. The training values are those of arXiv 2506.14095 for its tasks of this length.
    ValueError where the pairs have no room.

    Attributes:
        relevant: number of pairs that the label depends on.
    """

    name = "planted"
    vocabulary = (*(f"?{key}" for key in range(_KEYS)), *(f"{key}={bit}" for key in range(_KEYS) for bit in (0, 1)))
    epochs = 100
    separator = " "
    shortest = 2

    relevant: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("relevant", self.relevant, 1)
        if self.relevant > self.max_length - 1:
            raise ValueError(f"{self.name}: relevant={self.relevant}, expected at most {self.max_length - 1}")

    @property
    def num_labels(self) -> int:
        """Number of classes: counts from 0 to `relevant`."""
        return self.relevant + 1

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[int]]:
        """Draw the count and the relevant places, of which the first ones carry a one."""
        pairs = self.max_length - 1
        # One call for all draws keeps the first rows the same whatever the size.
        draws = rng.random((size, 2 + 3 * pairs))
        query = (draws[:, :1] * _KEYS).astype(int)
        labels = (draws[:, 1] * self.num_labels).astype(int)
        order, keys, bits = np.split(draws[:, 2:], 3, axis=1)
        rank = order.argsort(axis=1).argsort(axis=1)  # of each pair; the lowest are relevant
        relevant = rank < self.relevant
        other = (query + 1 + (keys * (_KEYS - 1)).astype(int)) % _KEYS
        ones = np.where(relevant, rank < labels[:, None], bits < 0.5)
        rows = np.concatenate([query, _KEYS + 2 * np.where(relevant, query, other) + ones], axis=1)
        return rows.tolist(), labels.tolist()
