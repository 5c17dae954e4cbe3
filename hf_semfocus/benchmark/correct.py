"""Correctness checks before timing: output and gradients against the float64 reference, at a small and at full size.

Inputs are such that rounding cannot reorder scores: integers plus a fraction that differs from key to key, all exact
in the type. So a backend that keeps another key is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..mechanisms import build
from .cases import Case
from .contestants import sparse
from .inputs import Inputs, step

SMALL = 203
"""Keys of the small problem, all of whose rows are compared; not a multiple of any tile size."""
SAMPLED = 5
"""Rows that are compared at the timed size."""
SLACK = 8.0
"""Allowed error, as a multiple of the reference's own rounding error in the case's type."""
SCALE = 0.125
"""Scale of the scores: a power of two, which is exact."""
TENSORS = ("output", "query gradient", "key gradient", "value gradient")


class IncorrectError(RuntimeError):
    """A backend differs from the reference."""


def check(case: Case, backend: str, device: torch.device) -> dict[str, Any]:
    """Compare a backend with the reference, all rows of a small problem and some rows of the case's own size.

    Args:
        case: the problem to be timed.
        backend: the backend to be timed.
        device: the device.

    Returns:
        The largest error of each tensor as a share of the allowed one, with the case and the backend.

    Raises:
        IncorrectError: an error is larger than allowed; names the case, the backend and the tensor.
        ValueError: the backend does not support the case.
    """
    groups = case.heads // case.kv_heads
    sizes = {"batch": 2, "heads": 2 * groups, "kv_heads": 2, "keys": SMALL}
    small = replace(case, **sizes, queries=1 if case.queries == 1 else SMALL)
    worst: dict[str, float] = {}
    for problem, rows in ((small, None), (case, _rows(case))):
        inputs = separated(problem, device)
        if rows is not None and inputs.upstream is not None:
            others = torch.ones(case.queries, dtype=torch.bool)
            others[list(rows)] = False
            inputs.upstream[:, :, others] = 0  # so that the gradients only depend on the sampled rows, too
        found = step(lambda q, k, v, p=problem: sparse(q, k, v, case=p, backend=backend, scale=SCALE), inputs)
        expected = _reference(problem, inputs, rows, torch.float64)
        rounded = _reference(problem, inputs, rows, inputs.query.dtype)
        for name, got, want, near in zip(TENSORS, found, expected, rounded, strict=False):
            if rows is not None and name == "output":
                got = got[:, :, list(rows)]
            share = _error(got, want) / _allowed(near, want, inputs.query.dtype)
            if not share <= 1:
                raise IncorrectError(
                    f"{problem.label}: {name} of backend {backend!r} is off by {_error(got, want):.3g}, "
                    f"{share:.3g} times what is allowed; nothing was timed"
                )
            worst[name] = max(worst.get(name, 0.0), round(share, 3))
    return {"case": case.label, "backend": backend, "share_of_allowed_error": worst}


def separated(case: Case, device: torch.device) -> Inputs:
    """Inputs whose scores differ by more than rounding, in any type and order of summation."""
    query, key, value, upstream = Inputs.of(case, device, seed=1)
    number = torch.arange(case.keys, device=device)
    finest = 1 << (case.keys - 1).bit_length()
    with torch.no_grad():
        query.copy_(query.round().clamp(-1, 1))
        key.copy_(key.round().clamp(-1, 1))
        query[..., :2] = 1.0
        key[..., 0] = (number // 256) * (256 / finest)  # two parts of eight bits, exact in bfloat16
        key[..., 1] = (number % 256) / finest
    return Inputs(query, key, value, upstream)


def _rows(case: Case) -> Sequence[int]:
    """Rows to compare at full size; each is recomputed as the last query of its own keys."""
    if not case.causal and build(case.mechanism).positional:
        return [case.queries - 1]
    return sorted({round(i * (case.queries - 1) / (SAMPLED - 1)) for i in range(SAMPLED)})


def _reference(case: Case, inputs: Inputs, rows: Sequence[int] | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Output and gradients by the eager backend in ``dtype``; with ``rows`` of these alone."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        call: Callable[..., Tensor] = lambda *of: sparse(*of, case=case, backend="eager", scale=SCALE)  # noqa: E731
        if rows is None:
            return call(query, key, value)
        outputs = []
        for row in rows:
            seen = case.keys - case.queries + row + 1 if case.causal else case.keys
            outputs.append(call(query[:, :, row : row + 1], key[:, :, :seen], value[:, :, :seen]))
        return torch.cat(outputs, 2)

    query, key, value = (t.detach().to(dtype).requires_grad_(t.requires_grad) for t in inputs[:3])
    upstream = inputs.upstream
    if upstream is not None:
        upstream = (upstream if rows is None else upstream[:, :, list(rows)]).to(dtype)
    return step(attend, Inputs(query, key, value, upstream))


def _error(found: Tensor, expected: Tensor) -> float:
    return (found.double() - expected).abs().max().item()


def _allowed(rounded: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """The reference's rounding error in ``dtype``, at least one unit in the last place, times ``SLACK``."""
    return SLACK * max(_error(rounded, expected), torch.finfo(dtype).eps * expected.abs().max().item())
