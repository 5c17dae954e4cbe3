"""What happens once before the first run: the Accelerator, its tracker, and the number of CPU threads."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers.utils import logging as transformers_logging

from .. import machine
from ..hf import observe
from ..mechanisms import base_name
from .options import TrainingOptions
from .sharding import shard_on_cpu

PACKAGES = ("hf_semfocus", "torch", "transformers", "accelerate", "datasets")
MOST_THREADS = 4
"""Small models stop gaining from threads early."""


def start(options: TrainingOptions, cpu_threads: int | None = None) -> Accelerator:
    """Make the Accelerator of a recipe.

    Args:
        options: ``report_to`` names the tracker, which writes below ``output_dir`` if it writes files.
        cpu_threads: threads of PyTorch where it trains on a CPU; None for the cores of a process, four at most.
            Set here because ``accelerate launch`` leaves a process a single thread unless told otherwise.

    Raises:
        ValueError: the tracker is not installed, a precision that the device lacks, or processes that were launched
            together but do not know of each other.
    """
    tracker = None if options.report_to == "none" else options.report_to
    if tracker and importlib.util.find_spec(tracker) is None:
        raise ValueError(f"report_to={tracker!r} is not installed; pip install {tracker}, or report_to=none")
    if options.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("mixed_precision='fp16' needs a GPU; expected bf16 or no")
    transformers_logging.disable_progress_bar()  # of writing a model's files
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # tells of tied weights at every checkpoint
    accelerator = Accelerator(
        # without a GPU, several processes are launched as for GPUs and have to be told
        cpu=not torch.accelerator.is_available(),
        log_with=tracker,
        project_dir=options.output_dir or "outputs",  # until the recipe knows it
        mixed_precision=options.mixed_precision,
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:  # each would train alone, into one folder
        raise ValueError(f"{launched} processes were launched, but Accelerate sees {accelerator.num_processes}")
    shard_on_cpu(accelerator)
    if accelerator.device.type == "cpu":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(cpu_threads or max(1, min(machine.cores() // local, MOST_THREADS)))
    return accelerator


def where(accelerator: Accelerator) -> str:
    """What a training runs on, hardware and software, in words."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.cpu_name()
    threads = f"{torch.get_num_threads()} CPU threads each"
    return f"{accelerator.num_processes} x {device.type} ({name}), {threads}; {machine.software(PACKAGES)}"


def back_ends(attentions: Iterable[str]) -> dict[str, list[str]]:
    """Which backends have computed the mechanisms among ``attentions`` in this process."""
    wanted = {base_name(attention) for attention in attentions}
    return {name: found for name, found in observe.ran().items() if name in wanted}


def start_tracking(accelerator: Accelerator, options: TrainingOptions, config: dict[str, Any]) -> None:
    """Open the tracker with the options of the training; nothing without ``report_to``."""
    if options.report_to != "none":
        plain = {name: value if isinstance(value, int | float) else str(value) for name, value in config.items()}
        accelerator.project_configuration.logging_dir = options.output_dir
        name = "trackers" if options.report_to == "tensorboard" else Path(options.output_dir).name
        accelerator.init_trackers(name, config=plain)
