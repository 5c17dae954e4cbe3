"""Measure selection and attention with other tile sizes than those chosen by arithmetic.

    python recipes/gpu/tiles.py --output_dir outputs/gpu

Results are in ``tiles.json``: seconds by sizes, the sizes of today first. Sizes with which other keys are selected
fail. A part of ``recipes/gpu/sitting.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from unittest.mock import patch

import steps
import torch
from torch import Tensor

from hf_semfocus.attention.problem import Problem
from hf_semfocus.attention.visibility import Visibility
from hf_semfocus.backends.lists import triton as backend
from hf_semfocus.benchmark.cases import Case
from hf_semfocus.benchmark.inputs import Inputs, step
from hf_semfocus.benchmark.timing import clock_of, measure
from hf_semfocus.mechanisms import build
from hf_semfocus.messages import brief

CASES = [
    Case(batch=32768 // n, keys=n, head_dim=head_dim, mechanism=f"topk_sparse:k={k}", dtype="bfloat16")
    for n, k, head_dim in ((4096, 8, 64), (16384, 64, 64), (16384, 8, 128))
]
TILES = [
    (rows, columns, dims, warps, stages)
    for rows, columns, warps in ((64, 128, 4), (64, 128, 8), (128, 128, 8), (64, 256, 8), (128, 256, 8))
    for dims in (64, 128)
    for stages in (2, 3)
]
"""Rows, columns, dimensions at a time, warps and stages of the selection's passes."""
ELEMENTS = (1024, 2048, 4096, 8192)
"""Elements of a gathered tile."""
REPEATS = 5


def selection_tiles(case: Case, device: torch.device, tiles: Iterable[tuple[int, ...]] = TILES) -> dict[str, Any]:
    """Seconds of the selection, by sizes."""
    from hf_semfocus.backends.lists.triton import selection

    problem, k = _problem(Inputs.of(case, device), case), build(case.mechanism).k
    chosen = selection.tile_for(k, case.queries, case.head_dim, problem.query.element_size())
    select = partial(backend.select, problem, k, 1)
    kept = select().sort(-1).values

    def timed(tile: selection.Tile) -> Any:
        with patch.object(selection, "tile_for", lambda *sizes: tile):
            if not torch.equal(select().sort(-1).values, kept):
                return {"failed": "other keys are selected"}
            return _seconds(select, device)

    others = [tile for tile in (selection.Tile(*tile) for tile in tiles) if tile.dims <= case.head_dim]
    return {str(tuple(tile)): _tried(timed, tile) for tile in dict.fromkeys([chosen, *others])}


def gathered_tiles(case: Case, device: torch.device, elements: Iterable[int] = ELEMENTS) -> dict[str, Any]:
    """Seconds of attention over selected lists, forward and backward, by elements of a gathered tile."""
    from hf_semfocus.backends.lists.triton import common

    inputs = Inputs.of(case, device)
    index = backend.select(_problem(inputs, case), build(case.mechanism).k, 1)

    def attend(*tensors: Tensor) -> Tensor:
        return backend.attend(_problem(Inputs(*tensors, None), case), index, None, False)[0]

    def timed(size: int) -> Any:
        with patch.object(common, "TILE_ELEMENTS", size):
            return _seconds(partial(step, attend, inputs), device)

    return {str(size): _tried(timed, size) for size in dict.fromkeys([common.TILE_ELEMENTS, *elements])}


def _problem(inputs: Inputs, case: Case) -> Problem:
    seen = Visibility.between(case.queries, case.keys, inputs.query.device, None, case.causal)
    return Problem(inputs.query, inputs.key, inputs.value, seen, case.head_dim**-0.5)


def _tried(call: Callable[[Any], Any], tile: Any) -> Any:
    try:
        return call(tile)
    except Exception as error:  # such as too much shared memory
        return {"failed": brief(error)}


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    timings, _ = measure({"call": call}, REPEATS, clock=clock_of(device))
    return float(f"{timings['call'].median:.4g}")


STEPS = {
    f"{what}: {case.label}": partial(sweep, case, torch.device("cuda"))
    for case in CASES
    for what, sweep in (("selection", selection_tiles), ("attention", gathered_tiles))
}

if __name__ == "__main__":
    steps.main(__doc__, STEPS, "tiles", needs_gpu=True)
