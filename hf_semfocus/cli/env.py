"""Show versions, hardware and backends, for an issue.

    semfocus env

It does not name the machine, its user or its folders.
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
"""One that selects by score, and one static pattern."""
VARIABLES = ("CXX", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE")
"""Environment variables that affect this package."""


def main(args: Sequence[str] | None = None) -> str:
    """Print and return the report."""
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args(args)
    text = "\n".join([*software(), *hardware(), "", *back_ends()])
    print(text)
    return text


def software() -> list[str]:
    """Lines on installed packages and environment variables."""
    variables = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ)
    return [f"hf_semfocus {__version__}", machine.software(PACKAGES), f"environment: {variables or 'nothing set'}"]


def hardware() -> list[str]:
    """Lines on the hardware."""
    return [
        f"{machine.system()}, {machine.cpu_name()}, {machine.cores()} cores",
        f"instruction sets: {', '.join(machine.instruction_sets()) or 'not listed by the system'}",
        f"PyTorch: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, CUDA "
        f"{torch.version.cuda or 'not built in'}",
        *(f"GPU: {gpu}" for gpu in machine.gpus() or ["none"]),
    ]


def back_ends() -> list[str]:
    """Lines on the backend that computes an example, and the objections of the others."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [str(explain(*_example(device), name, is_causal=True)) for device in devices for name in MECHANISMS]


def _example(device: str) -> tuple[torch.Tensor, ...]:
    return torch.zeros(3, 1, 12, 1024, 64, device=device).unbind()
