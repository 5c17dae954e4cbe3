"""Evaluation on held-out rows: sums and metrics over all of them, whatever the batches and the processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..data.batches import Rows, iterate
from ..data.rows import IGNORED
from .objectives import Objective
from .steps import sums, widest

if TYPE_CHECKING:
    from evaluate import Metric


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    model: nn.Module,
    data: Rows,
    batch_size: int,
    objective: Objective,
    metrics: Sequence[type[Metric]] = (),
) -> dict[str, float]:
    """Evaluate a model, which is left in evaluation mode.

    Args:
        accelerator: every process must call this.
        model: prepared.
        data: held-out rows; those of epoch 0.
        batch_size: rows of a step over all processes together; it does not change the result.
        objective: of the training.
        metrics: classes of :mod:`hf_semfocus.metrics`, which say in ``columns`` what they take of ``predictions``,
            ``references``, ``nll`` and ``tokens``.

    Returns:
        ``eval_loss``, the mean over the units; ``eval_accuracy``, the share of correct units; and ``eval_NAME`` for
        what the metrics compute. The same on every process.
    """
    model.eval()
    wanted = {column for metric in metrics for column in metric.columns}
    seen: dict[str, list[np.ndarray]] = {column: [] for column in wanted & {"predictions", "references"}}
    loss, correct = 0.0, 0
    rank, world = accelerator.process_index, accelerator.num_processes
    order = np.arange(len(data))
    for batch in iterate(data, order, batch_size, rank=rank, world=world, device=accelerator.device):
        [part] = batch.parts
        part_loss, predictions, references = objective(model, part.inputs)
        if part.empty:  # computed all the same: sharded models need every process in every forward pass
            continue
        loss, correct = loss + part_loss.to(widest(accelerator.device)), correct + (predictions == references).sum()
        counted = references != IGNORED
        for column, values in (("predictions", predictions), ("references", references)):
            if column in seen:
                seen[column].append(values[counted].cpu().numpy())
    loss, correct = sums(accelerator, loss, correct)
    units = data.units(order)
    columns = {"nll": np.array([loss]), "tokens": np.array([units])}
    for column, values in seen.items():
        columns[column] = np.concatenate(gather_object(values))
    found = {"eval_loss": loss / units, "eval_accuracy": correct / units}
    for metric in metrics:
        computed = metric(keep_in_memory=True).compute(**{column: columns[column] for column in metric.columns})
        found |= {f"eval_{name}": value for name, value in computed.items()}
    return found
