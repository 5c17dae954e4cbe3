"""Suites of cases with their goals: for a CPU, for a GPU, and a quick one of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..mechanisms import exists
from .cases import BELOW_SDPA, Case
from .steps import CUDA_STEPS, MAIN_JOB, STEPS, ModelStep


@dataclass(frozen=True)
class Suite:
    """The cases and model steps of one run."""

    cases: tuple[Case, ...]
    steps: tuple[ModelStep, ...] = ()

    def select(self, cases: Sequence[str] = (), mechanisms: Sequence[str] = ()) -> Suite:
        """Keep cases and steps with any of ``cases`` in their label and any of ``mechanisms`` in their mechanism.

        Empty arguments keep all. A mechanism without a case, such as a custom one, is added to every shape, without
        goals.

        Raises:
            ValueError: nothing is left; names the choices.
        """
        new = [
            mechanism
            for mechanism in mechanisms
            if exists(mechanism) and not any(mechanism in each.mechanism for each in (*self.cases, *self.steps))
        ]
        shapes = {case.shape: case for case in self.cases}
        added = tuple(case.under(mechanism) for mechanism in new for case in shapes.values())

        def kept(each: Case | ModelStep) -> bool:
            return all(
                not wanted or any(part in text for part in wanted)
                for wanted, text in ((cases, each.label), (mechanisms, each.mechanism))
            )

        found = Suite(tuple(filter(kept, self.cases + added)), tuple(filter(kept, self.steps)))
        if not (found.cases or found.steps):
            labels = "; ".join(each.label for each in (*self.cases, *self.steps))
            raise ValueError(
                f"cases={list(cases)!r}, mechanisms={list(mechanisms)!r} leave nothing; expected parts of: {labels}"
            )
        return found


def suite(device: str = "cpu", quick: bool = False) -> Suite:
    """The suite of a device, ``"cpu"`` or ``"cuda"``; ``quick``: small sizes, well under a minute."""
    if device == "cuda":
        return Suite(QUICK_CUDA) if quick else Suite(CUDA, CUDA_STEPS)
    return Suite(QUICK, (MAIN_JOB,)) if quick else Suite(CPU, STEPS)


SIZES = (1024, 2048, 4096, 8192, 16384)
"""Lengths of the scaling series, for the plot and the exponents."""

CPU = (
    Case(batch=25, heads=1, keys=40, mechanism="topk_sparse:k=5", causal=False, over_sdpa=1.2),
    Case(batch=25, heads=1, keys=600, mechanism="topk_sparse:k=5", causal=False, over_sdpa=5.0, memory=BELOW_SDPA),
    Case(batch=4, keys=512, mechanism="topk_sparse:k=8", over_sdpa=4.5, memory=BELOW_SDPA),
    Case(heads=4, keys=256, mechanism="topk_sparse:k=16", over_sdpa=1.5),
    Case(heads=4, keys=256, mechanism="banded_sparse:window=64", over_sdpa=1.5),
    Case(keys=2048, mechanism="topk_sparse:k=8", over_sdpa=6.0),
    Case(keys=2048, mechanism="topk_sparse:k=32", over_sdpa=4.0),
    Case(keys=4096, mechanism="topk_sparse:k=8", over_sdpa=6.5, memory=100),
    Case(keys=4096, mechanism="topk_sparse:k=32", over_sdpa=4.5, memory=100),
    Case(keys=16384, mechanism="topk_sparse:k=16", over_sdpa=3.5, memory=400),
    Case(keys=4096, mechanism="banded_sparse:window=64", over_sdpa=12.0),
    Case(keys=4096, mechanism="block_local_sparse:block_size=64", over_sdpa=18.0),
    Case(keys=4096, mechanism="strided_sparse:window=64,stride=64", over_sdpa=4.0),
    Case(keys=4096, mechanism="topk_sparse:k=8", dtype="bfloat16"),
    Case(heads=8, keys=1024, mechanism="topk_sparse:k=16", direction="decode", over_sdpa=1.5),
    Case(heads=32, keys=4096, mechanism="topk_sparse:k=16", direction="decode", over_sdpa=0.9),
    Case(heads=32, kv_heads=8, keys=4096, mechanism="topk_sparse:k=16", direction="decode"),
    *(Case(keys=n, mechanism="topk_sparse:k=16") for n in SIZES[:-1]),
    *(Case(keys=n, mechanism="banded_sparse:window=64") for n in SIZES if n != 4096),
)
QUICK = (
    Case(batch=25, heads=1, keys=40, mechanism="topk_sparse:k=5", causal=False, probe=False),
    *(Case(heads=4, keys=n, mechanism="topk_sparse:k=16", probe=n == 1024) for n in (256, 512, 1024)),
    *(Case(heads=4, keys=n, mechanism="banded_sparse:window=64", probe=False) for n in (256, 512, 1024)),
    Case(heads=8, keys=1024, mechanism="topk_sparse:k=16", direction="decode", probe=False),
)

TOKENS = 32768
"""Tokens of a case on a GPU, batch x keys, as far as a sequence is not longer."""
CUDA_GOALS = {4096: 1.0, 16384: 2.0, 65536: 2.5}
"""Required speed-up over the flash backend at k = 8, by length."""


def _cuda(n: int, k: int, head_dim: int, **options: Any) -> Case:
    sizes = {"batch": max(1, TOKENS // n), "keys": n, "head_dim": head_dim}
    return Case(**sizes, mechanism=f"topk_sparse:k={k}", dtype="bfloat16", **{"probe": False, **options})


def _goals(n: int, k: int) -> dict[str, float]:
    return {"over_sdpa": CUDA_GOALS[n], "over_eager": 10.0} if k == 8 and n in CUDA_GOALS else {}


CUDA = (
    *(
        _cuda(n, k, head_dim, probe=(k, head_dim) == (8, 64), **_goals(n, k))
        for head_dim in (64, 128)
        for n in (1024, 4096, 16384, 65536)
        for k in (8, 32, 64)
    ),
    *(_cuda(4096, 8, 64, content=content) for content in ("hub", "periodic", "padded")),
    *(replace(_cuda(n, 64, 128, direction="decode"), batch=8, heads=32, kv_heads=8) for n in (4096, 16384, 65536)),
)
QUICK_CUDA = tuple(_cuda(n, 8, 64) for n in (1024, 2048, 4096))
