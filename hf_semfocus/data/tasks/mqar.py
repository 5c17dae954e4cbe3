"""Multi-query associative recall: which value came with this key? From Zoology (arXiv 2312.04927), which finds that it
explains most of the gap between attention and gated convolutions; every answer hangs on one exact key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Task, register

_KEYS = _VALUES = 64
_BLANK = _KEYS + _VALUES
_IGNORED = -100


@register
@dataclass(frozen=True)
class MQAR(Task):
    """Distinct keys, each followed by a value, then every key once more; each is to be followed by its value.

    As in Zoology, keys are uniform, and so are the values, which are distinct too. After the pairs come slots of two
    tokens, a query and a blank: the label at the blank is the value, and no other token has a label. The keys in turn
    take a free slot i = 1, 2, ... with probability proportional to i ** (power - 1); slots left over are blank.
    ValueError for an odd max_length, or one with no room for the pairs and the queries. The training values are of
    this package, for AdamW.

    Attributes:
        num_pairs: number of keys.
        power: small values put most queries close to the pairs, 1 puts them anywhere.
    """

    name = "mqar"
    vocabulary = (*(f"k{i}" for i in range(_KEYS)), *(f"v{i}" for i in range(_VALUES)), "_")
    num_labels = len(vocabulary)
    kind = "causal_lm"
    epochs = 64
    train_size = 20000
    num_layers = 2
    learning_rate = 1e-3
    lr_decay = 1.0
    separator = " "
    shortest = 4

    max_length: int = 64
    num_pairs: int = 8
    power: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        most = min(_KEYS, self.max_length // 4)
        if not 1 <= self.num_pairs <= most:
            raise ValueError(f"{self.name}: num_pairs={self.num_pairs}, expected 1 to {most}")
        if self.max_length % 2:
            raise ValueError(f"{self.name}: max_length={self.max_length}, expected an even number")
        if not self.power > 0:
            raise ValueError(f"{self.name}: power={self.power}, expected a positive number")

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[list[int]]]:
        """Draw keys, values and slots, and write the value both after the key and, as the label, after the query."""
        pairs, slots = 2 * self.num_pairs, self.max_length // 2 - self.num_pairs
        # One call for all draws keeps the first rows the same whatever the size.
        draws = rng.random((size, _KEYS + _VALUES + slots))
        keys, values, waits = np.split(draws, [_KEYS, _KEYS + _VALUES], axis=1)
        keys = keys.argsort(axis=1)[:, : self.num_pairs]
        values = _KEYS + values.argsort(axis=1)[:, : self.num_pairs]
        # Exponential waiting times with these rates end in the order of draws without replacement.
        rates = np.arange(1, slots + 1) ** (self.power - 1.0)
        queries = pairs + 2 * (-np.log1p(-waits) / rates).argsort(axis=1)[:, : self.num_pairs]
        rows = np.full((size, self.max_length), _BLANK)
        rows[:, 0:pairs:2], rows[:, 1:pairs:2] = keys, values
        labels = np.full_like(rows, _IGNORED)
        np.put_along_axis(rows, queries, keys, axis=1)
        np.put_along_axis(labels, queries + 1, values, axis=1)
        return rows.tolist(), labels.tolist()
