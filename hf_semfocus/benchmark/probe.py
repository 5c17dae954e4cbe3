"""The process that measures the peak memory of one contestant: ``python -m hf_semfocus.benchmark.probe JSON``."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module

import torch

from .cases import Case
from .contestants import chosen, contestants
from .inputs import Inputs, step
from .memory import peak_of

TINY = 128
"""Keys of the problem that comes before."""


def main(asked: dict[str, object]) -> dict[str, float]:
    """Measure what ``memory.peak_in_own_process`` asks for."""
    import_module(asked["registered_by"])  # a mechanism may come from outside
    case, device = Case(**asked["case"]), torch.device(asked["device"])
    torch.set_num_threads(asked["threads"])
    inputs = Inputs.of(case, device)
    backend = chosen(case, inputs, asked["backend"])  # which the tiny problem is to be computed with, too
    tiny = replace(case, keys=min(TINY, case.keys), queries=min(TINY, case.queries))
    step(contestants(tiny, backend, device)[0][asked["contestant"]], Inputs.of(tiny, device))
    attend = contestants(case, backend, device)[0][asked["contestant"]]
    results = []

    def measured() -> None:
        results.extend(step(attend, inputs))

    peak = peak_of(measured, device)
    return {
        "megabytes": round(peak, 1),
        "results_megabytes": round(sum(t.numel() * t.element_size() for t in results) / 1e6, 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
