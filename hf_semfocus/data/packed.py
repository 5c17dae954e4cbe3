"""Rows of packed documents for the training loop, read from their file on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .rows import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_AT_ONCE = 1024


class PackedRows:
    """Rows made by ``pack``, read from their file on demand.

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
        """Number of predicted tokens of each row: int64 ``[rows]``."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.predicted)

    def units(self, rows: np.ndarray) -> int:
        """Number of predicted tokens in these rows."""
        return int(self.predicted[rows].sum())

    def with_epoch(self, epoch: int) -> PackedRows:
        """The rows of an epoch."""
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

    def batch(self, rows: np.ndarray, whole_batch: np.ndarray) -> dict[str, Tensor]:
        """``input_ids``, ``position_ids`` and ``labels``, int64 ``[rows, block]``.

        There is no attention mask: Transformers separates pieces by their positions (with ``use_cache=False``).
        """
        ids, starts, positions = self._read(rows)
        return {
            "input_ids": torch.from_numpy(ids),
            "position_ids": torch.from_numpy(positions),
            "labels": torch.from_numpy(np.where(starts, IGNORED, ids)),
        }
