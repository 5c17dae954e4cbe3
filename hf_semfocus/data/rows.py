"""Rows in memory for the training loop: token sequences of any length, with a label each or a label per token.

Token labels follow Transformers' convention: the label at a position is the token that belongs there, -100 where
nothing is predicted; a causal model predicts it at the previous position.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

IGNORED = -100


class PaddedRows:
    """Examples in memory, stored without padding; a batch is padded on the right.

    Args:
        columns: model inputs by name: int ``[tokens]``, with all examples concatenated.
        lengths: tokens of every example, above 0: int ``[examples]``.
        fillers: padding value of every column, by name.
        weights: number of units of every example: int ``[examples]``.
        labels: class of every example, int64 ``[examples]``; None where "labels" is one of the columns.
        masked: whether batches have an ``attention_mask``.
    """

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        lengths: np.ndarray,
        fillers: Mapping[str, int],
        weights: np.ndarray,
        labels: np.ndarray | None = None,
        masked: bool = True,
    ):
        self.columns, self.lengths, self.fillers = columns, lengths, fillers
        self.weights, self.labels, self.masked = weights, labels, masked
        self.starts = first_tokens(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def units(self, rows: np.ndarray) -> int:
        """Number of units over which these rows are averaged."""
        return int(self.weights[rows].sum())

    def with_epoch(self, epoch: int) -> PaddedRows:
        """The same rows: nothing in them depends on the epoch."""
        return self

    def batch(self, rows: np.ndarray, whole_batch: np.ndarray) -> dict[str, Tensor]:
        """Inputs of the model, int64 ``[rows, longest]``, and ``labels``, ``[rows]`` where they are classes.

        Args:
            rows: numbers of the examples.
            whole_batch: numbers of all examples of the batch, to whose longest these are padded.
        """
        places = np.arange(self.lengths[whole_batch].max())
        inside = places < self.lengths[rows, None]
        taken = (self.starts[rows, None] + places)[inside]
        inputs = {}
        for name, column in self.columns.items():
            table = np.full(inside.shape, self.fillers[name], np.int64)
            table[inside] = column[taken]
            inputs[name] = torch.from_numpy(table)
        if self.labels is not None:
            inputs["labels"] = torch.from_numpy(self.labels[rows])
        if self.masked:
            inputs["attention_mask"] = torch.from_numpy(inside.astype(np.int64))
        return inputs


class SequenceRows(PaddedRows):
    """Sequences with a class each; units are examples.

    Args:
        input_ids: token ids of every example, of any lengths above 0.
        labels: class of every example.
        pad_token_id: id for the positions after a sequence's end.
        pad_as_tokens: make no attention mask, so that the model treats padding as tokens, like the paper's code. There
            is no mask either if all sequences have the same length.

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
        lengths = lengths_of(input_ids)
        if len(labels) != len(lengths) or not lengths.all() or not len(lengths):
            raise ValueError(
                f"{len(lengths)} sequences, the shortest of {min(lengths, default=0)} tokens, and {len(labels)} "
                "labels; expected as many of each and no empty sequence"
            )
        super().__init__(
            {"input_ids": joined(input_ids)},
            lengths,
            {"input_ids": pad_token_id},
            weights=np.ones_like(lengths),
            labels=np.array(labels, np.int64),
            masked=not pad_as_tokens and lengths.min() < lengths.max(),
        )


class TokenRows(PaddedRows):
    """Sequences with a label for every token, as in tasks of the kind "causal_lm"; units are predicted tokens.

    Args:
        input_ids: token ids of every example, of any lengths above 0.
        labels: as many labels as tokens, -100 where nothing is predicted; the first is never predicted.
        pad_token_id: id for the positions after a sequence's end. There is no attention mask if all sequences have
            the same length.

    Raises:
        ValueError: no examples, an empty sequence, not a label for every token, or an example without any.
    """

    def __init__(self, input_ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], pad_token_id: int):
        lengths = lengths_of(input_ids)
        if not len(lengths) or not lengths.all() or lengths.tolist() != lengths_of(labels).tolist():
            raise ValueError(
                f"{len(lengths)} sequences of {lengths.sum()} tokens, the shortest of {min(lengths, default=0)}, and "
                f"{len(labels)} of {sum(map(len, labels))} labels; expected a label for every token and none empty"
            )
        columns = {"input_ids": joined(input_ids), "labels": joined(labels)}
        predicted = columns["labels"] != IGNORED
        predicted[first_tokens(lengths)] = False
        weights = np.add.reduceat(predicted, first_tokens(lengths), dtype=np.int64)
        if not weights.all():
            raise ValueError(f"example {weights.argmin() + 1} has no label after its first token; expected one")
        fillers = {"input_ids": pad_token_id, "labels": IGNORED}
        super().__init__(columns, lengths, fillers, weights, masked=lengths.min() < lengths.max())


def lengths_of(sequences: Iterable[Sequence[int]]) -> np.ndarray:
    """Length of every sequence: int64 ``[sequences]``."""
    return np.fromiter(map(len, sequences), np.int64)


def joined(sequences: Iterable[Iterable[int]]) -> np.ndarray:
    """All sequences concatenated: int32."""
    return np.fromiter(itertools.chain.from_iterable(sequences), np.int32)


def first_tokens(lengths: np.ndarray) -> np.ndarray:
    """Index of every sequence's first token in the result of :func:`joined`."""
    return lengths.cumsum() - lengths
