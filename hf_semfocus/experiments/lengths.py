"""How models that were trained on rows of one length do on rows of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from .. import kinds
from ..data import tasks
from ..models.checkpoints import checkpoint_config, load_checkpoint
from ..training import OBJECTIVES
from ..training.evaluation import evaluate
from .synthetic import rows_of

WITHOUT_LIMIT = ("semfocus_encoder", "llama")
"""Families whose positions are computed, so that rows may be longer than in training."""
BATCH_SIZE = 250


def evaluate_lengths(
    accelerator: Accelerator,
    folder: Path,
    task: str,
    attention: str,
    seed: int,
    lengths: Sequence[int],
    pad_as_tokens: bool = False,
    size: int | None = None,
) -> list[dict[str, float]]:
    """Evaluate a saved model on the test split of its task at several lengths.

    Args:
        accelerator: of Accelerate.
        folder: of the model.
        task: its name, with parameters if any.
        attention: the model's.
        seed: of the data.
        lengths: tokens of the longest row.
        pad_as_tokens: as in training.
        size: rows of a length; those of the split by default.

    Returns:
        ``length``, ``eval_loss`` (nats) and ``eval_accuracy`` of every length.

    Raises:
        ValueError: the model has learned positions, or the task has no rows of a length.
    """
    config = checkpoint_config(str(folder))
    if config.model_type not in WITHOUT_LIMIT:
        raise ValueError(f"{folder} is of the family {config.model_type!r}; expected {', '.join(WITHOUT_LIMIT)}")
    config.max_position_embeddings = max(*lengths, config.max_position_embeddings)
    kind = tasks.get(task).kind
    model = accelerator.prepare(load_checkpoint(kinds.get(kind), str(folder), attention, config))
    found = []
    for length in lengths:
        held = rows_of(tasks.at_length(task, length), "test", seed, size, pad_as_tokens)
        scores = evaluate(accelerator, model, held, BATCH_SIZE, OBJECTIVES[kind])
        found.append({"length": length, **scores})
    return found
