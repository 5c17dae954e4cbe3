"""Tell versions, machine and backends: what to paste into an issue.

    semfocus env

Nothing of it names the machine, its user or its folders.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

import torch

from .. import __version__, machine
from ..functional import explain

PACKAGES = (
    *("torch", "transformers", "accelerate", "datasets", "evaluate", "peft", "numpy", "tokenizers", "safetensors"),
    *("huggingface_hub", "triton", "matplotlib", "tensorboard", "x-transformers"),
)
MECHANISMS = ("topk_sparse:k=8", "banded_sparse:window=8")
"""One that selects by score, and one that does not."""
VARIABLES = ("CXX", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE")
"""Of the environment, what changes how this package works."""


def main(args: Sequence[str] | None = None) -> str:
    """Print it, and return what was printed."""
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args(args)
    text = "\n".join([*software(), *hardware(), "", *back_ends()])
    print(text)
    return text


def software() -> list[str]:
    """Lines on what is installed, and how it is told to work."""
    told = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ)
    return [f"hf_semfocus {__version__}", machine.software(PACKAGES), f"environment: {told or 'nothing set'}"]


def hardware() -> list[str]:
    """Lines on the machine."""
    return [
        f"{machine.system()}, {machine.cpu_name()}, {machine.cores()} cores",
        f"instruction sets: {', '.join(machine.instruction_sets()) or 'not listed by the system'}",
        f"PyTorch: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, CUDA "
        f"{torch.version.cuda or 'not built in'}",
        *(f"GPU: {gpu}" for gpu in machine.gpus() or ["none"]),
    ]


def back_ends() -> list[str]:
    """Lines on which backend computes an example, and what the others object to."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [str(explain(*_example(device), name, is_causal=True)) for device in devices for name in MECHANISMS]


def _example(device: str) -> tuple[torch.Tensor, ...]:
    return torch.zeros(3, 1, 12, 1024, 64, device=device).unbind()
