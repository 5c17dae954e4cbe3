"""The parts of a training step: gradients, the optimizer's step, sums over processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..console.signals import first
from ..data.batches import Batch
from .objectives import Objective
from .sharding import whole
from .state import RunState


@dataclass(frozen=True)
class Step:
    """What a step found over all processes: loss and correct units in sum, gradient norm, and the signal that came."""

    loss: float
    correct: float
    norm: float
    stop: int | None


def take_step(state: RunState, batch: Batch, asked_to_stop: Callable[[], list[bool]]) -> Step:
    """Take one step, unless loss or gradient are not finite, and count it.

    Args:
        state: of the run; ``diverged`` tells whether the step was not taken.
        batch: this process's share.
        asked_to_stop: see :func:`stop_noted`.
    """
    accelerator, progress, optimizer = state.accelerator, state.progress, state.optimizer
    state.learning_rate = state.rate(progress.step, progress.epoch)
    for group in optimizer.param_groups:
        group["lr"] = state.learning_rate
    course = state.unwrapped, progress.step, state.steps
    state.focus.apply(*course, state.run.seed)
    loss, correct = backward(accelerator, state.model, batch, state.objective)
    state.focus.apply(*course)  # what evaluations and saved models have
    norm = whole(accelerator.clip_grad_norm_(state.model.parameters(), state.options.max_grad_norm))
    loss, correct, norm, *came = sums(accelerator, loss, correct, norm, *asked_to_stop())
    # A scaler deals with infinite gradients of float16 itself.
    state.diverged = not math.isfinite(loss) or (accelerator.scaler is None and not math.isfinite(norm))
    if not state.diverged:
        optimizer.step()
        optimizer.zero_grad()
        state.clock.step()
        progress.count(loss, correct, batch.units, batch.tokens)
        state.display.step()
    return Step(loss, correct, norm, first(came))


def backward(accelerator: Accelerator, model: nn.Module, batch: Batch, objective: Objective) -> tuple[Tensor, Tensor]:
    """Add up the gradients of the mean loss over a batch.

    Returns:
        This process's share of the summed loss and of the number of correct units.
    """
    total, correct = 0.0, 0
    for number, part in enumerate(batch.parts, start=1):
        with nullcontext() if number == len(batch.parts) else accelerator.no_sync(model):
            loss, predictions, references = objective(model, part.inputs)
            if part.empty:
                loss = loss * 0
            else:
                correct = correct + (predictions == references).sum()
            # The gradients' average over the processes is then that of the mean over the whole batch.
            accelerator.backward(loss * (accelerator.num_processes / batch.units))
            total = total + loss.detach()
    return total, torch.as_tensor(correct, device=accelerator.device)


def widest(device: torch.device) -> torch.dtype:
    """The widest floating-point type that a device has; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def sums(accelerator: Accelerator, *values: Tensor | float) -> list[float]:
    """Sum scalars over all processes; the same list on every process."""
    device = accelerator.device
    stacked = torch.stack([torch.as_tensor(value, device=device).detach().to(widest(device)) for value in values])
    if accelerator.num_processes > 1:
        stacked = accelerator.reduce(stacked, reduction="sum")
    return stacked.tolist()
