"""The batches of a run: a pure function of seed, epoch and step.

Every process computes the same permutation and takes every ``world``-th row of each batch, so that the batch size
is global, batches do not depend on the number of processes, and a run can resume at any step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Rows(Protocol):
    """Examples that can be batched by row number."""

    def __len__(self) -> int: ...

    def units(self, rows: np.ndarray) -> int:
        """Number of units over which these rows are averaged: examples, or tokens for a language model."""

    def batch(self, rows: np.ndarray, whole_batch: np.ndarray) -> dict[str, Tensor]:
        """Model inputs and labels of ``rows``, padded to the longest of ``whole_batch``, which includes them."""

    def with_epoch(self, epoch: int) -> Rows:
        """The rows of an epoch; evaluation uses those of epoch 0."""


@dataclass(frozen=True)
class Part:
    """The part of a batch that this process computes at once.

    Attributes:
        inputs: tensors for the model, labels included.
        empty: there was no row for this process; ``inputs`` holds another's, with weight zero.
    """

    inputs: dict[str, Tensor]
    empty: bool


@dataclass(frozen=True)
class Batch:
    """One batch, and this process's share of it.

    Attributes:
        parts: the share; every process has the same number of parts.
        rows: row numbers of the whole batch.
        units: units of the whole batch, over which losses are averaged.
    """

    parts: tuple[Part, ...]
    rows: np.ndarray
    units: int

    @property
    def tokens(self) -> int:
        """Tokens of the whole batch, padding included, on all processes together."""
        return len(self.rows) * self.parts[0].inputs["input_ids"].shape[-1]


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Number of batches, the last one possibly smaller."""
    return -(-rows // batch_size)


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of row numbers of an epoch, the same on every process and machine."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def iterate(
    data: Rows,
    order: np.ndarray,
    batch_size: int,
    first: int = 0,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    parts: int = 1,
) -> Iterator[Batch]:
    """Yield this process's shares of the batches of ``order``, starting with batch number ``first``."""
    for start in range(first * batch_size, len(order), batch_size):
        rows = order[start : start + batch_size]
        shares = [part[rank::world] for part in np.array_split(rows, parts)]
        yield Batch(tuple(_part(data, share, rows, device) for share in shares), rows, data.units(rows))


def _part(data: Rows, share: np.ndarray, rows: np.ndarray, device: torch.device | str) -> Part:
    inputs = data.batch(share if len(share) else rows[:1], whole_batch=rows)
    return Part({name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}, len(share) == 0)
