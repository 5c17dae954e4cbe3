"""What the theory speaks of, measured on the model of a run: quantities of its attention, and which inputs meet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..analysis import attention_maps, capture, meeting, receptive_field
from ..analysis.compared import SYMBOLS, TABLE_QUANTILES
from ..hf.settings import is_ours, resolve
from ..training import Rows
from .analyzed import Model
from .synthetic import rows_of

ROWS = 200
"""Training rows that a model is measured on."""
BATCH_SIZE = 50


@torch.no_grad()
def measure_quantities(
    folder: Path, task: str, seed: int, pad_as_tokens: bool = False, size: int = ROWS
) -> dict[str, Any]:
    """Measure a saved model on training rows of its task, without dropout.

    Args:
        folder: of the model.
        task: its name, with parameters if any.
        seed: of the data.
        pad_as_tokens: as in training.
        size: number of rows.

    Returns:
        ``rows``; ``k``, the most keys that a query keeps (None for full attention); quantiles over all layers, heads
        and queries of each of :data:`~hf_semfocus.analysis.compared.SYMBOLS` that the attention has; and the shares of
        ``receptive_field`` (inputs that reach a token through all layers) and ``meeting`` (pairs of inputs that reach
        one token), means over tokens and rows; padding and global tokens count as tokens, and a causal model does not
        get to 1.
    """
    loaded = Model(str(folder))
    model, held = loaded.load(), rows_of(task, "train", seed, size, pad_as_tokens)
    batches = [_inputs(held, start) for start in range(0, len(held), BATCH_SIZE)]
    with capture(model) as record:
        for batch in batches:
            model(**batch)
    fields = [receptive_field(attention_maps(model, **batch)) for batch in batches]
    keys = max(batch["input_ids"].shape[-1] for batch in batches)
    budget = resolve(loaded.own_attention, None)[0].budget(keys) if is_ours(loaded.own_attention) else None
    captured = {quantity for *_, quantity in record.sketches} & set(SYMBOLS.values())
    levels = sorted({*TABLE_QUANTILES, *(round(1 - level, 9) for level in TABLE_QUANTILES)})
    return {
        "rows": len(held),
        "k": budget,
        **{
            quantity: dict(zip(map(str, levels), map(float, record.pooled(quantity).quantiles(levels)), strict=True))
            for quantity in sorted(captured)
        },
        "receptive_field": _mean(fields),
        "meeting": _mean(map(meeting, fields)),
    }


def _inputs(rows: Rows, start: int) -> dict[str, Tensor]:
    """A batch without its labels."""
    chosen = np.arange(start, min(start + BATCH_SIZE, len(rows)))
    return {name: each for name, each in rows.batch(chosen, chosen).items() if name != "labels"}


def _mean(batches: Iterable[Tensor]) -> float:
    """The mean over the rows of all batches."""
    return float(torch.cat([batch.double().mean((1, 2)) for batch in batches]).mean())
