"""Hardware and software of a benchmark, without the host name."""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime, timezone
from typing import Any

import torch

from .. import machine

PACKAGES = ("hf_semfocus", "torch", "transformers", "x-transformers", "triton", "adasplash")


def file_stem(device: str) -> str:
    """Name of the results of this machine, without suffix: ``bench_cpu_amd_epyc_9r14_96_core``."""
    words = re.sub(r"\(\w+\)|@.*|\b(cpu|processor)\b", " ", _name(device).lower())
    return "_".join(["bench", device, *re.findall(r"[a-z0-9]+", words)])


def environment(device: str) -> dict[str, Any]:
    """Date, device, instruction sets, threads, load and versions."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": _name(device),
        **({} if device == "cuda" else {"instruction_sets": machine.instruction_sets()}),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": load(),
        "system": machine.system(),
        "python": platform.python_version(),
        "versions": machine.versions(PACKAGES),
    }


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else machine.cpu_name()


def load() -> float | None:
    """Load average of the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
