"""Check the kernels on this GPU: versions, ceilings, cases against the formula, the tests, and a memory checker.

    python recipes/gpu/check.py --output_dir outputs/gpu

Results are in ``check.json``. A part of ``recipes/gpu/sitting.py``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import steps
import torch

from hf_semfocus.benchmark.cases import Case
from hf_semfocus.benchmark.correct import check
from hf_semfocus.benchmark.environment import environment
from hf_semfocus.benchmark.timing import clock_of, measure

ROOT = Path(__file__).parents[2]
TOPK = Case(batch=2, heads=4, keys=1500, mechanism="topk_sparse:k=8", dtype="bfloat16")
CASES = [
    (Case(**{**vars(TOPK), "queries": None, **changes}), backend)
    for backend, changes in (
        ("triton", {}),
        ("triton", {"dtype": "float32"}),
        ("triton", {"dtype": "float16", "head_dim": 128}),
        ("triton", {"head_dim": 80, "causal": False}),
        ("triton", {"head_dim": 256}),
        ("triton", {"kv_heads": 2, "mechanism": "topk_sparse:k=64"}),
        ("triton", {"mechanism": "topk_sparse:k=128"}),
        ("triton", {"mechanism": "bottomk_sparse:k=8"}),
        ("triton", {"mechanism": "banded_sparse:window=32"}),
        ("triton", {"content": "padded"}),
        ("triton", {"keys": 4096, "direction": "decode"}),
        ("flex", {"mechanism": "banded_sparse:window=32"}),
        ("flex", {"mechanism": "strided_sparse:window=16,stride=16", "content": "padded"}),
    )
]
"""Small cases, and the backend that computes them."""
PATIENCE = {"memory_checker": 100, "tests": 380}
"""Seconds of these steps."""


def machine() -> dict[str, Any]:
    """Versions and the GPU."""
    gpu = torch.cuda.get_device_properties(0)
    sizes = {"capability": f"{gpu.major}.{gpu.minor}", "multiprocessors": gpu.multi_processor_count}
    return {**environment("cuda"), **sizes, "memory_gb": round(gpu.total_memory / 1e9, 1), "cuda": torch.version.cuda}


def ceilings(device: str = "cuda", size: int = 8192) -> dict[str, float]:
    """Copies in 10**9 bytes per second, read and written, and products of matrices in 10**12 operations."""
    source = torch.empty(4 * size * size, device=device)
    copied = torch.empty_like(source)
    square = {dtype: torch.randn(size, size, device=device, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    calls = {"copy": partial(copied.copy_, source)}
    calls |= {str(dtype).removeprefix("torch."): partial(torch.mm, a, a) for dtype, a in square.items()}
    timings, _ = measure(calls, 7, clock=clock_of(torch.device(device)))
    work = {"copy": 2 * source.numel() * source.element_size() / 1e9}
    product = 2 * size**3 / 1e12
    return {name: float(f"{work.get(name, product) / timing.median:.4g}") for name, timing in timings.items()}


def tests() -> dict[str, Any]:
    """The tests of the Triton kernels, which run natively here."""
    if importlib.util.find_spec("pytest") is None:
        return {"skipped": "pytest is not installed"}
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/test_triton*.py"))
    spread = ["-n", str(min(8, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    return _process([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *spread, *files], PATIENCE["tests"])


def memory_checker() -> dict[str, Any]:
    """One case under NVIDIA's memory checker."""
    checker = shutil.which("compute-sanitizer")
    if checker is None:
        return {"skipped": "compute-sanitizer is not on the PATH"}
    command = [sys.executable, "-c", "import check; check.one_case()"]
    command = [checker, "--tool", "memcheck", "--error-exitcode", "1", *command]
    return _process(command, PATIENCE["memory_checker"], Path(__file__).parent)


def one_case(case: Case = CASES[0][0], backend: str = CASES[0][1], device: str = "cuda") -> None:
    """Compare output and gradients of one case with the formula; raises if they differ."""
    print(check(case, backend, torch.device(device)))


def _process(command: list[str], patience: float, folder: Path = ROOT) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command, cwd=folder, timeout=patience, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took over {patience} s"}
    print(done.stdout)
    lines = done.stdout.strip().splitlines()[-5:]
    return {"failed" if done.returncode else "passed": lines}


STEPS = {
    "machine": machine,
    "ceilings": ceilings,
    **{f"{case.label} ({backend})": partial(check, case, backend, torch.device("cuda")) for case, backend in CASES},
    "memory_checker": memory_checker,
    "tests": tests,
}

if __name__ == "__main__":
    steps.main(__doc__, STEPS, "check", needs_gpu=True)
