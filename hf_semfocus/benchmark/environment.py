"""Hardware and software of a benchmark, without the host name."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from typing import Any

import torch

from .. import machine

PACKAGES = ("hf_semfocus", "torch", "transformers", "x-transformers", "triton", "adasplash")


def environment(device: str) -> dict[str, Any]:
    """Date, device, threads, load and versions."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else machine.cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": load(),
        "system": machine.system(),
        "python": platform.python_version(),
        "versions": machine.versions(PACKAGES),
    }


def load() -> float | None:
    """Load average of the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
