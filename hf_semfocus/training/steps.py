"""What the training loop does at its single places: objective, optimizer, gradients, sums over processes, saving."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.batches import Batch, steps_per_epoch
from ..files import replacing
from .checkpoint import Progress
from .options import TrainingOptions
from .schedules import FocusSchedule, learning_rate

Objective = Callable[[nn.Module, dict[str, Tensor]], tuple[Tensor, Tensor, Tensor]]
"""From a model and its inputs to the loss, summed over the units, and to predictions and references.

Predictions and references are int64 of one shape; a reference of -100 is no unit.
"""


def classification(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Objective of a classifier, whose units are examples: cross entropy in nats, predicted and true classes.

    Args:
        model: returns ``logits`` ``[examples, classes]``.
        inputs: its inputs, and ``labels`` int64 ``[examples]``.
    """
    labels = inputs["labels"]
    logits = model(**{name: tensor for name, tensor in inputs.items() if name != "labels"}).logits
    return nn.functional.cross_entropy(logits.float(), labels, reduction="sum"), logits.argmax(-1), labels


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


def check_course(options: TrainingOptions, rows: int, attentions: Iterable[str]) -> None:
    """Refuse options that do not fit the length of a run, before it starts.

    Raises:
        ValueError: more warm-up than steps, or a schedule whose phases do not follow each other.
    """
    steps = total_steps(options, steps_per_epoch(rows, options.batch_size))
    learning_rate(options, steps)
    for attention in attentions:
        FocusSchedule.parse(attention).at(0, steps)


def total_steps(options: TrainingOptions, length: int) -> int:
    """Steps of a run with epochs of ``length`` steps."""
    return int(min(options.epochs * length, options.max_steps or math.inf))


def is_over(progress: Progress, options: TrainingOptions, length: int) -> bool:
    """Whether a run, with epochs of ``length`` steps, has had its epochs, its steps, or those after convergence."""
    epoch = progress.epoch + progress.position / length
    return (
        epoch >= options.epochs
        or (options.max_steps is not None and progress.step >= options.max_steps)
        or (progress.reached is not None and epoch >= progress.reached["epoch"] + options.epochs_after_target)
    )


def save_model(
    accelerator: Accelerator, model: nn.Module, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Replace the model in ``folder``, and its tokenizer if it has one; every process must call it."""
    state = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        with replacing(folder) as unfinished:
            accelerator.unwrap_model(model).save_pretrained(unfinished, state_dict=state)
            if tokenizer is not None:
                tokenizer.save_pretrained(unfinished)
    accelerator.wait_for_everyone()


def save_batch(accelerator: Accelerator, batch: Batch, folder: Path) -> None:
    """Keep this process's share of a batch as ``batch-RANK.safetensors``, a tensor for each input of each part."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{number}.{name}": tensor.detach().cpu().contiguous()
        for number, part in enumerate(batch.parts)
        if not part.empty
        for name, tensor in part.inputs.items()
    }
    save_file(tensors, folder / f"batch-{accelerator.process_index}.safetensors")
