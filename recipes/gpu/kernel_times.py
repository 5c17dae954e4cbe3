"""Profile the kernels of a training step of attention: time and calls of each.

    python recipes/gpu/kernel_times.py --output_dir outputs/gpu

Results are in ``kernel_times.json``. A part of ``recipes/gpu/sitting.py``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import steps
import torch
from torch.profiler import ProfilerActivity, profile

from hf_semfocus.benchmark.cases import Case
from hf_semfocus.benchmark.contestants import sparse
from hf_semfocus.benchmark.inputs import Inputs, step

CASES = [
    *(
        Case(batch=max(1, 32768 // n), keys=n, head_dim=head_dim, mechanism=f"topk_sparse:k={k}", dtype="bfloat16")
        for n, k, head_dim in ((4096, 8, 64), (4096, 64, 64), (16384, 8, 128), (16384, 64, 64), (65536, 8, 64))
    ),
    Case(batch=8, keys=4096, mechanism="topk_sparse:k=8", dtype="bfloat16", content="hub"),
    Case(batch=8, keys=4096, mechanism="topk_sparse:k=8", dtype="bfloat16", content="periodic"),
    Case(
        batch=8, heads=32, kv_heads=8, keys=65536, mechanism="topk_sparse:k=64", dtype="bfloat16", direction="decode"
    ),
]
REPEATS = 5
"""Steps that are profiled, after two that compile."""


def kernel_times(case: Case, backend: str, device: torch.device) -> list[dict[str, Any]]:
    """What runs in a step of a case, the longest first: ``name``, ``calls``, ``microseconds`` and its ``share``."""
    inputs, on_gpu = Inputs.of(case, device), device.type == "cuda"
    call = partial(step, partial(sparse, case=case, backend=backend), inputs)
    for _ in range(2):
        call()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        for _ in range(REPEATS):
            call()
        if on_gpu:
            torch.cuda.synchronize()
    times = {
        event.key: (event.count, event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        for event in profiled.key_averages()
    }
    total = sum(time for _, time in times.values())
    return [
        {
            "name": name,
            "calls": count / REPEATS,
            "microseconds": round(time / REPEATS, 1),
            "share": round(time / total, 3),
        }
        for name, (count, time) in sorted(times.items(), key=lambda item: -item[1][1])
        if time
    ]


STEPS = {case.label: partial(kernel_times, case, "triton", torch.device("cuda")) for case in CASES}

if __name__ == "__main__":
    steps.main(__doc__, STEPS, "kernel_times", needs_gpu=True)
