"""Models and batches on the disk."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..data.batches import Batch
from ..files import replacing
from .options import TrainingOptions


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


def bytes_needed(model: nn.Module, options: TrainingOptions, runs: int) -> int:
    """Bytes that the models (or adapters) and the last checkpoints of all runs take, and two more of one, at most."""
    whole = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    checkpoint = whole + (2 * trained if options.optimizer == "adamw" else 0)
    saved = trained if hasattr(model, "peft_config") else whole
    return 2 * runs * saved + (runs + 2) * checkpoint
