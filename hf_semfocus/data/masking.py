"""Masked language modeling: rows whose masked tokens differ in every epoch.

The masked tokens of a row are a function of seed, epoch and row number alone, not of batch, process or resumption.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..messages import check_integer
from .packed import PackedRows
from .rows import IGNORED

_STREAM = 0x6D6C6D
"""Separates these random numbers from others of the same seed and epoch."""


class MaskedRows(PackedRows):
    """Packed documents for a masked language model (BERT, arXiv 1810.04805).

    Of every row's tokens without special ones, the share ``probability`` is predicted (rounded, at least one); of
    those, 80 % become the mask token, 10 % a random token, and 10 % are unchanged.

    Args:
        packed: made by ``pack`` with the same tokenizer.
        tokenizer: has a ``mask_token``.
        seed: non-negative integer.
        epoch: non-negative integer; see ``with_epoch``.
        probability: share of the predicted tokens, above 0 and at most 1.
        first_position: position of the first token of a piece; ``pad_token_id + 1`` for RoBERTa and similar.

    Raises:
        ValueError: a tokenizer without a mask token, a bad probability or seed, no rows, or a row with special tokens
            only.
    """

    def __init__(
        self,
        packed: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        epoch: int = 0,
        probability: float = 0.15,
        first_position: int = 0,
    ):
        if tokenizer.mask_token_id is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no mask_token; expected one for masked language modeling"
            )
        if not 0 < probability <= 1:
            raise ValueError(f"probability={probability!r}; expected a share above 0 and at most 1")
        check_integer("seed", seed, 0)
        self.mask, self.vocabulary = tokenizer.mask_token_id, len(tokenizer)
        special = {getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep", "mask")}
        self.special = np.array(sorted(special - {None}))
        self.seed, self.probability, self.first_position = seed, probability, first_position
        super().__init__(packed)
        if not self.predicted.all():
            raise ValueError(f"packed row {self.predicted.argmin() + 1} holds special tokens only; expected some text")
        self.epoch = epoch

    def with_epoch(self, epoch: int) -> MaskedRows:
        """The rows with the masked tokens of that epoch."""
        rows = copy.copy(self)
        rows.epoch = epoch
        return rows

    def _count(self, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        usable = (~np.isin(ids, self.special)).sum(1)
        return np.minimum(usable, np.maximum(1, np.floor(usable * self.probability + 0.5))).astype(np.int64)

    def batch(self, rows: np.ndarray, whole_batch: np.ndarray) -> dict[str, Tensor]:
        """``input_ids``, ``position_ids`` and ``labels``, int64 ``[rows, block]``, and ``attention_mask``.

        The mask is bool ``[rows, 1, block, block]``, True where both tokens belong to one piece.
        """
        ids, starts, positions = self._read(rows)
        hidden, labels = ids.copy(), np.full_like(ids, IGNORED)
        for i, row in enumerate(rows):
            chosen, replaced = self._hide(int(row), ids[i])
            labels[i, chosen] = ids[i, chosen]
            hidden[i, chosen] = replaced
        pieces = torch.from_numpy(starts.cumsum(1))
        return {
            "input_ids": torch.from_numpy(hidden),
            "position_ids": torch.from_numpy(positions + self.first_position),
            "attention_mask": (pieces[:, :, None] == pieces[:, None, :])[:, None],
            "labels": torch.from_numpy(labels),
        }

    def _hide(self, row: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The predicted columns of a row, and their replacements."""
        # uniform numbers only: NumPy guarantees their stream, not that of derived distributions
        rng = np.random.default_rng([_STREAM, self.seed, self.epoch, row])
        usable = np.flatnonzero(~np.isin(ids, self.special))
        chosen = usable[np.argsort(rng.random(len(usable)), kind="stable")[: self.predicted[row]]]
        action, token = rng.random((2, len(chosen)))
        anything = (token * self.vocabulary).astype(np.int64)
        return chosen, np.where(action < 0.8, self.mask, np.where(action < 0.9, anything, ids[chosen]))
