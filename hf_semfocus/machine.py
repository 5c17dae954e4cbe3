"""Versions and hardware, without the host name."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = ("avx", "avx2", "fma", "f16c", "avx512", "amx", "asimd", "sve", "bf16", "vsx")
"""Prefixes of the instruction sets on which the speed of attention depends."""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of the installed ones among ``packages``."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def software(packages: Iterable[str]) -> str:
    """Versions of Python and the installed ones among ``packages``, as one line."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{n} {v}" for n, v in versions(packages).items())])


def system() -> str:
    """Operating system and architecture."""
    return f"{platform.system()} {platform.machine()}"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's name, with its family and model where the name has no number of its own (``AMD EPYC``)."""
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    family, model = _cpuinfo("cpu family"), _cpuinfo("model")
    if family is None or model is None or any(map(str.isdigit, name.partition("@")[0])):
        return name
    return f"{name} (family {family}, model {model})"


def flags() -> str:
    """The processor's feature flags, or its architecture and name where the system lists none."""
    return _cpuinfo("flags") or _cpuinfo("Features") or f"{platform.machine()} {platform.processor()}"


def instruction_sets() -> list[str]:
    """The processor's instruction sets among ``INSTRUCTIONS``; none where the system does not list them."""
    return sorted({flag for flag in flags().split() if flag.startswith(INSTRUCTIONS)})


def gpus() -> list[str]:
    """GPUs with their compute capability and memory."""
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {gpu.total_memory / 1e9:.0f} GB" for gpu in found
    ]


def _cpuinfo(field: str) -> str | None:
    if not CPUINFO.exists():
        return None
    lines = (line.partition(":") for line in CPUINFO.read_text(encoding="utf-8").splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == field), None)
