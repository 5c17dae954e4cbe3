"""Loss and accuracy on a grid of weights around a model's own: the loss landscape of arXiv 2506.14095."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from tqdm import tqdm

from ..console.display import line, on_terminal
from ..data.batches import Rows, iterate
from ..files import write_json
from ..hf.parameters import stored_settings
from ..hf.switching import configurations
from ..messages import check_integer
from .directions import moved, random_directions
from .landscapes import Landscape, read_done

Objective = Callable[[nn.Module, dict[str, Tensor]], tuple[Tensor, Tensor, Tensor]]
"""An objective of :mod:`hf_semfocus.training`: summed loss, predictions and references of a batch."""
SECONDS = 10
"""Time between two writes of the file, and between two progress lines where there is no terminal."""


def landscape(
    model: nn.Module,
    rows: Rows,
    objective: Objective,
    *,
    points: int = 21,
    extent: float = 1.0,
    seed: int = 0,
    normalization: str = "tensor",
    batch_size: int = 250,
    attention_dropout: bool = False,
    file: str | Path | None = None,
    accelerator: Accelerator | None = None,
    show: bool = True,
) -> Landscape:
    """Evaluate a model on a grid of weights in two random directions around its own.

    The weights are restored exactly, also after an interruption. The model is evaluated without dropout. Points
    are distributed over processes; each holds the whole model.

    Args:
        model: on its device, not prepared by Accelerate.
        rows: rows to evaluate; all training rows in the paper.
        objective: of :mod:`hf_semfocus.training`, such as ``classification`` or ``causal_lm``.
        points: points per side of the grid, 200 in the paper; an even number leaves out the center.
        extent: the grid is in [-extent, extent]^2.
        seed: of the directions.
        normalization: "tensor" or "filter"; see :func:`random_directions`.
        batch_size: rows of a forward pass; it does not change the result.
        attention_dropout: keep the dropout of attention weights on, as the official scripts do by mistake.
        file: JSON file of finished points, written atomically; an existing one is continued.
        accelerator: needed for several processes, each of which must call this.
        show: show progress: a bar on a terminal, else lines.

    Returns:
        The landscape, the same on every process.

    Raises:
        ValueError: fewer than 2 points, an unknown normalization, or a file that holds another landscape.
    """
    check_integer("points", points, 2)
    directions = random_directions(model, seed, normalization)
    settings = {"points": points, "extent": extent, "seed": seed, "normalization": normalization, "rows": len(rows)}
    settings |= {"attention_dropout": attention_dropout, "attention": _attention(model), "weights": _checksum(model)}
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    done = read_done(Path(file), settings) if file is not None and rank == 0 else []
    if world > 1:
        [done] = broadcast_object_list([done])
    axis, device = np.linspace(-extent, extent, points), next(model.parameters()).device

    def place(i: int, j: int) -> list[float]:
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cuda), moved(model, directions, axis[i], axis[j]):
            torch.manual_seed(i * points + j)  # dropout does not depend on the order of the points
            return [i, j, *_mean(model, rows, objective, batch_size, device)]

    def keep() -> None:
        if file is not None and rank == 0:
            write_json(Path(file), {"settings": settings, "lengths": directions.lengths, "done": done})

    bar = tqdm(total=points**2, initial=len(done), desc="landscape", disable=None if show and rank == 0 else True)
    seen, kept = {(i, j) for i, j, *_ in done}, time.monotonic()
    todo = [(i, j) for i in range(points) for j in range(points) if (i, j) not in seen]
    keep()  # a file that cannot be written is refused before anything is computed
    try:
        with bar, _evaluated(model, attention_dropout):
            for start in range(0, len(todo), world):
                part = todo[start : start + world]
                found = [place(*at) for at in part[rank::world]]
                done += gather_object(found) if world > 1 else found
                bar.update(len(part))
                if time.monotonic() - kept > SECONDS:
                    keep()
                    kept = time.monotonic()
                    if show and rank == 0 and not on_terminal():
                        line("landscape", f"{len(done)} of {points**2} places")
    finally:  # also on an interruption
        keep()
    return Landscape.made(settings, directions.lengths, done)


@torch.no_grad()
def _mean(
    model: nn.Module, rows: Rows, objective: Objective, batch_size: int, device: torch.device
) -> tuple[float, float]:
    """Loss and accuracy over all rows."""
    loss, correct, order = 0.0, 0, np.arange(len(rows))
    for batch in iterate(rows, order, batch_size, device=device):
        part, predictions, references = objective(model, batch.parts[0].inputs)
        loss, correct = loss + float(part), correct + int((predictions == references).sum())
    return loss / rows.units(order), correct / rows.units(order)


@contextmanager
def _evaluated(model: nn.Module, attention_dropout: bool) -> Iterator[None]:
    """Evaluation mode, except for attention modules if their dropout is wanted; modes are restored."""
    before = {module: module.training for module in model.modules()}
    try:
        for module in before:
            module.training = attention_dropout and "Attention" in type(module).__name__
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _attention(model: nn.Module) -> list[str]:
    """Names and parameters of the attentions in a model's configurations."""
    found = [
        f"{config._attn_implementation} {stored_settings(config) or ''}".strip() for config in configurations(model)
    ]
    return sorted(set(found))


def _checksum(model: nn.Module) -> int:
    """Checksum of all weights."""
    value = 0
    for parameter in model.parameters():
        value = zlib.crc32(parameter.detach().cpu().contiguous().view(torch.uint8).numpy(), value)
    return value
