"""The parts of a training step: optimizer, gradients, sums over processes."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.batches import Batch
from .objectives import Objective
from .options import TrainingOptions


def make_ready(model: PreTrainedModel, options: TrainingOptions) -> None:
    """Switch on what the options ask of a model before Accelerate prepares it.

    Raises:
        ValueError: a model that cannot compute its activations again.
    """
    if options.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise ValueError(f"gradient_checkpointing=True, but {type(model).__name__} does not support it")
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    if options.torch_compile:
        model.compile()


def make_optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """SGD without momentum, or AdamW, over all parameters that are trained."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[options.optimizer]
    return kind(parameters, lr=options.learning_rate, weight_decay=options.weight_decay, foreach=True)


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
