"""Peak memory of one contestant, in a process of its own.

All that a step allocates beyond its inputs counts: the output and the gradients of query, key and value do, the inputs
and the gradient of the output do not. On a CPU it is the peak resident memory minus that before the step; on CUDA what
PyTorch has allocated. A step of a tiny problem comes first, so that libraries, compiled kernels and their buffers do
not count.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..mechanisms import base_name, get
from ..memory import peak_megabytes, reset_peak
from .cases import Case
from .contestants import chosen, contestants
from .inputs import Inputs, step

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
"""Environment of the process: glibc gives every tensor pages of its own and takes them back when it is freed.

By default it keeps freed memory for the next tensor, and resident memory is more than what is in use.
"""


TINY = 128
"""Keys of the problem whose step comes first."""


def peak_of(call: Callable[[], Any], device: torch.device) -> float:
    """Peak memory of ``call`` beyond that before, in 10**6 bytes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device) / 1e6
    else:
        import psutil  # not needed on a GPU

        before = psutil.Process().memory_info().rss / 1e6
    reset_peak(device)
    kept = call()
    peak = peak_megabytes(device) - before
    del kept
    return peak


def peak_in_own_process(
    case: Case, contestant: str, *, backend: str, device: str, threads: int
) -> dict[str, float | str]:
    """Measure one contestant in a fresh process.

    Returns:
        ``megabytes``, the peak over the inputs, and ``results_megabytes``, the part that is output and gradients; or
        ``failed``, how the process ended, such as when out of memory.
    """
    request = {
        "case": asdict(case),
        "registered_by": sorted({get(name).__module__ for name in base_name(case.mechanism).split("+")}),
        "contestant": contestant,
        "backend": backend,
        "device": device,
        "threads": threads,
    }
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import main; main()", json.dumps(request)],
        env={**os.environ, **ALLOCATOR, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return {"failed": f"killed by signal {-done.returncode}" if done.returncode < 0 else last}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Entry point of the process that :func:`peak_in_own_process` starts; prints the measurement."""
    print(json.dumps(probe(json.loads(sys.argv[1]))))


def probe(request: dict[str, Any]) -> dict[str, float]:
    """Measure a request of :func:`peak_in_own_process`."""
    for module in request["registered_by"]:  # a mechanism may be defined outside of this package
        import_module(module)
    case, device = Case(**request["case"]), torch.device(request["device"])
    torch.set_num_threads(request["threads"])
    inputs = Inputs.of(case, device)
    backend = chosen(case, inputs, request["backend"])  # of the tiny problem, too
    tiny = replace(case, keys=min(TINY, case.keys), queries=min(TINY, case.queries))
    step(contestants(tiny, backend, device)[0][request["contestant"]], Inputs.of(tiny, device))
    attend = contestants(case, backend, device)[0][request["contestant"]]
    results: list[Tensor] = []
    peak = peak_of(lambda: results.extend(step(attend, inputs)), device)
    size = sum(result.numel() * result.element_size() for result in results)
    return {"megabytes": round(peak, 1), "results_megabytes": round(size / 1e6, 1)}
