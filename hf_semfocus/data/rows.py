"""Rows for the training loop: packed documents to continue, or sequences with a label for every token.

Labels follow Transformers' convention: the label at a position is the token that belongs there, -100 where nothing is
predicted; a causal model predicts it at the position before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100
_ROWS_AT_ONCE = 1024


class PackedRows:
    """Rows made by ``pack``, read from their file as they are needed.

    Args:
        packed: columns ``input_ids`` (integer) and ``starts`` (bool), both ``[block]``.

    Raises:
        ValueError: no rows.
    """

    def __init__(self, packed: Dataset):
        if not len(packed):
            raise ValueError("there are 0 packed rows; expected at least one")
        self.packed = packed.with_format("numpy")
        chunks = self.packed.iter(_ROWS_AT_ONCE)
        self.predicted = np.concatenate([self._count(chunk["input_ids"], chunk["starts"]) for chunk in chunks])

    def _count(self, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """How many tokens of each row are predicted: int64 ``[rows]``."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.predicted)

    def units(self, rows: np.ndarray) -> int:
        """Number of tokens that are predicted in these rows."""
        return int(self.predicted[rows].sum())

    def with_epoch(self, epoch: int) -> PackedRows:
        """The same rows as an epoch sees them."""
        return self

    def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, starts of pieces, and positions counted from them: each ``[rows, block]``."""
        chunk = self.packed[rows]
        ids, starts = chunk["input_ids"].astype(np.int64), chunk["starts"]
        columns = np.arange(ids.shape[1])
        return ids, starts, columns - np.maximum.accumulate(np.where(starts, columns, 0), axis=1)


class CausalRows(PackedRows):
    """Packed documents for a causal language model, which predicts every token of a piece but the first."""

    def _count(self, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return (~starts).sum(1)

    def batch(self, rows: np.ndarray, together_with: np.ndarray) -> dict[str, Tensor]:
        """``input_ids``, ``position_ids`` and ``labels``, int64 ``[rows, block]``.

        There is no attention mask: from the positions, Transformers keeps pieces apart (with ``use_cache=False``).
        """
        ids, starts, positions = self._read(rows)
        return {
            "input_ids": torch.from_numpy(ids),
            "position_ids": torch.from_numpy(positions),
            "labels": torch.from_numpy(np.where(starts, IGNORED, ids)),
        }


class TokenRows:
    """Sequences with a label for every token, such as a synthetic task of the kind "causal_lm", in memory.

    Args:
        input_ids: token ids of every example, of any lengths above 0.
        labels: as many labels as tokens, -100 where nothing is predicted; the first is never predicted.
        pad_token_id: id for the positions after a sequence's end.

    Raises:
        ValueError: no examples, an empty sequence, not a label for every token, or an example without any.
    """

    def __init__(self, input_ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], pad_token_id: int):
        lengths = [len(ids) for ids in input_ids]
        if not lengths or min(lengths) == 0 or lengths != [len(row) for row in labels]:
            raise ValueError(
                f"{len(lengths)} sequences of {sum(lengths)} tokens, the shortest of {min(lengths, default=0)}, and "
                f"{len(labels)} of {sum(map(len, labels))} labels; expected a label for every token and none empty"
            )
        self.lengths = torch.tensor(lengths, device="cpu")
        self.table = torch.full((len(lengths), max(lengths)), pad_token_id, device="cpu")
        self.labels = torch.full_like(self.table, IGNORED)
        for row, length in enumerate(lengths):
            self.table[row, :length] = torch.as_tensor(input_ids[row], device="cpu")
            self.labels[row, :length] = torch.as_tensor(labels[row], device="cpu")
        self.predicted = (self.labels[:, 1:] != IGNORED).sum(1).numpy()
        if not self.predicted.all():
            raise ValueError(f"example {self.predicted.argmin() + 1} has no label after its first token; expected one")
        self.masked = min(lengths) < max(lengths)

    @classmethod
    def from_dataset(cls, dataset: Any, pad_token_id: int) -> TokenRows:
        """Read the columns ``input_ids`` and ``labels`` of a ``datasets.Dataset``."""
        return cls(dataset["input_ids"][:], dataset["labels"][:], pad_token_id)

    def __len__(self) -> int:
        return len(self.lengths)

    def units(self, rows: np.ndarray) -> int:
        """Number of tokens that are predicted in these rows."""
        return int(self.predicted[rows].sum())

    def with_epoch(self, epoch: int) -> TokenRows:
        """The same rows: nothing in them depends on the epoch."""
        return self

    def batch(self, rows: np.ndarray, together_with: np.ndarray) -> dict[str, Tensor]:
        """``input_ids``, ``labels`` and, where something is padded, ``attention_mask``: int64 ``[rows, longest]``."""
        rows = torch.from_numpy(rows)
        longest = int(self.lengths[together_with].max())
        inputs = {"input_ids": self.table[rows, :longest], "labels": self.labels[rows, :longest]}
        if self.masked:
            inputs["attention_mask"] = (torch.arange(longest, device="cpu") < self.lengths[rows, None]).long()
        return inputs
