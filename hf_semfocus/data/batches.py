"""Which examples a step sees, and their tensors: a pure function of seed, epoch and step.

Every process computes the same permutation and takes every ``world``-th row of each batch, so that the batch size
is the global one, runs on any number of processes see the same batches, and a run can start anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Rows(Protocol):
    """Examples in memory, or anything else that can give a batch by row numbers."""

    def __len__(self) -> int: ...

    def units(self, rows: np.ndarray) -> int:
        """How many units these rows are averaged over: examples, or tokens for a language model."""

    def batch(self, rows: np.ndarray, together_with: np.ndarray) -> dict[str, Tensor]:
        """Model inputs and labels of ``rows``, padded as their whole batch ``together_with`` would be."""

    def with_epoch(self, epoch: int) -> Rows:
        """The same rows as an epoch sees them; evaluation sees those of epoch 0."""


class SequenceRows:
    """Labelled sequences as one padded table.

    Args:
        input_ids: token ids of every example, of any lengths above 0.
        labels: class of every example.
        pad_token_id: id for the positions after a sequence's end.
        pad_as_tokens: give no attention mask, so that the model takes padding for tokens as the paper's code does.

    Raises:
        ValueError: no examples, an empty sequence, or not as many labels as sequences.
    """

    def __init__(
        self,
        input_ids: Sequence[Sequence[int]],
        labels: Sequence[int],
        pad_token_id: int,
        pad_as_tokens: bool = False,
    ):
        lengths = torch.tensor([len(ids) for ids in input_ids], device="cpu")
        if len(labels) != len(lengths) or len(lengths) == 0 or not lengths.min() > 0:
            raise ValueError(
                f"{len(lengths)} sequences, the shortest of {min(lengths, default=0)} tokens, and {len(labels)} "
                "labels; expected as many of each and no empty sequence"
            )
        self.labels = torch.tensor(labels, device="cpu")
        self.lengths = lengths
        self.table = torch.full((len(lengths), int(lengths.max())), pad_token_id, device="cpu")
        for row, ids in enumerate(input_ids):
            self.table[row, : len(ids)] = torch.as_tensor(ids, device="cpu")
        self.masked = not pad_as_tokens and bool(lengths.min() < lengths.max())

    @classmethod
    def from_dataset(cls, dataset: Any, pad_token_id: int, pad_as_tokens: bool = False) -> SequenceRows:
        """Read the columns ``input_ids`` and ``labels`` of a ``datasets.Dataset``."""
        return cls(dataset["input_ids"][:], dataset["labels"][:], pad_token_id, pad_as_tokens)

    def __len__(self) -> int:
        return len(self.labels)

    def units(self, rows: np.ndarray) -> int:
        """Every example counts once."""
        return len(rows)

    def with_epoch(self, epoch: int) -> SequenceRows:
        """The same rows: nothing in them depends on the epoch."""
        return self

    def batch(self, rows: np.ndarray, together_with: np.ndarray) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` ``[rows, longest]`` (no mask where nothing is padded), ``labels``."""
        rows = torch.from_numpy(rows)
        longest = int(self.lengths[together_with].max())
        inputs = {"input_ids": self.table[rows, :longest], "labels": self.labels[rows]}
        if self.masked:
            inputs["attention_mask"] = (torch.arange(longest, device="cpu") < self.lengths[rows, None]).long()
        return inputs


@dataclass(frozen=True)
class Part:
    """What this process computes of a batch at once.

    Attributes:
        inputs: tensors for the model, labels included.
        empty: there was no row for this process; ``inputs`` holds another's, to be weighted by zero.
    """

    inputs: dict[str, Tensor]
    empty: bool


@dataclass(frozen=True)
class Batch:
    """One batch, and this process's share of it.

    Attributes:
        parts: the share, in as many parts on every process.
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
    inputs = data.batch(share if len(share) else rows[:1], together_with=rows)
    return Part({name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}, len(share) == 0)
