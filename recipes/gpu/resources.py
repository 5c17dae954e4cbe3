"""Compile the Triton kernels ahead of time, and list their registers, spills and shared memory.

    python recipes/gpu/resources.py --output_dir recipes/results

It needs Triton, which brings the compiler, but no GPU: the host code runs on the CPU, with kernels that are compiled
instead of launched. Results are ``gpu_resources.json`` and ``gpu_resources.md``.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from hf_semfocus.attention.problem import Problem
from hf_semfocus.attention.visibility import Visibility
from hf_semfocus.backends import BACKENDS
from hf_semfocus.benchmark.cases import Case
from hf_semfocus.benchmark.inputs import Inputs, mask_of, step
from hf_semfocus.files import write_json, write_text
from hf_semfocus.mechanisms import build
from hf_semfocus.tables import markdown_table

CASES = [
    Case(
        batch=2,
        heads=2,
        keys=200,
        head_dim=head_dim,
        mechanism=f"topk_sparse:k={k}",
        dtype="bfloat16",
        content=content,
    )
    for head_dim, k, content in (*product((64, 128), (8, 64), ("normal",)), (128, 64, "padded"))
]
SHARED = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10}
"""Bytes of shared memory that a program may have, by compute capability; those of 8.6 run what 8.0 does."""
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@contextmanager
def compiled_only(capability: int) -> Iterator[list[tuple[str, Any]]]:
    """Compile kernels for a GPU of this capability, such as 90, in place of launches; yields their names and code."""

    class Driver:
        get_current_target = staticmethod(lambda: GPUTarget("cuda", capability, 32))
        get_current_device = staticmethod(lambda: capability)  # compiled kernels are kept by device
        get_current_stream = staticmethod(lambda device: 0)

    run, made = JITFunction.run, []

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        made.append((self.__name__, run(self, *args, grid=grid, warmup=True, **options)))

    driver = triton.runtime.driver
    with patch.object(driver, "_active", Driver()), patch.object(JITFunction, "run", compile_only):
        yield made


def usage(kernel: Any) -> dict[str, int]:
    """Registers and bytes of stack (spills) per thread, and bytes of shared memory of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK):(\d+)", told)}
    return {"registers": found["REG"], "stack": found["STACK"], "shared": kernel.metadata.shared}


def resources(capability: int, cases: Sequence[Case] = CASES) -> list[dict[str, Any]]:
    """What every kernel of a training step takes: ``kernel``, ``head_dim``, ``k``, ``content`` and :func:`usage`."""
    found: dict[tuple[Any, ...], dict[str, int]] = {}
    for case in cases:
        mechanism = build(case.mechanism)
        with compiled_only(capability) as made:
            step(lambda *tensors, of=case: _attend(of, *tensors), Inputs.of(case, torch.device("cpu")))
        for name, kernel in made:
            key = (name, case.head_dim, mechanism.k, case.content)
            taken = usage(kernel)
            # one kernel may be compiled in several forms for one case
            found[key] = {what: max(number, found.get(key, taken)[what]) for what, number in taken.items()}
    names = ("kernel", "head_dim", "k", "content")
    return [{**dict(zip(names, key, strict=True)), **taken} for key, taken in found.items()]


def _attend(case: Case, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    mask = mask_of(case, query.device)
    seen = Visibility.between(case.queries, case.keys, query.device, mask, case.causal)
    problem = Problem(query, key, value, seen, case.head_dim**-0.5)
    return BACKENDS["triton"].attend(build(case.mechanism), problem)[0]


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A table in Markdown: registers / bytes of stack / KiB of shared memory, by capability."""
    rows = [["kernel", "head_dim", "k", *(f"sm_{capability}" for capability in results)]]
    for alike in zip(*results.values(), strict=True):
        first = alike[0]
        name = first["kernel"] + (" (padded)" if first["content"] == "padded" else "")
        cells = [f"{each['registers']} / {each['stack']} / {each['shared'] / 1024:.1f}" for each in alike]
        rows.append([name, str(first["head_dim"]), str(first["k"]), *cells])
    return markdown_table(rows)


def main(args: Sequence[str] | None = None) -> None:
    """Compile for compute capability 8.0 and 9.0, and write the tables."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/gpu"), help="folder of the results")
    folder = parser.parse_args(args).output_dir
    folder.mkdir(parents=True, exist_ok=True)
    results = {str(capability): resources(capability) for capability in (80, 90)}
    write_json(folder / "gpu_resources.json", results)
    text = (
        "# Resources of the Triton kernels\n\n"
        "Registers per thread / bytes of stack per thread, which are spills / KiB of shared memory, compiled ahead of "
        f"time by Triton {triton.__version__} in bfloat16 for compute capability 8.0 and 9.0:\n\n"
    )
    write_text(folder / "gpu_resources.md", f"{text}{table(results)}\n")
    print(table(results))


if __name__ == "__main__":
    main()
