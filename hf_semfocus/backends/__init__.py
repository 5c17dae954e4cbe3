"""Backends: how attention with a mechanism is computed.

Each declares its ``LIMITS`` and computes ``attend(mechanism, problem, return_weights)``. ``"auto"`` takes the first
that can compute a problem.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..attention.problem import Problem
from ..mechanisms import Mechanism
from ..messages import shown
from ..tables import html_table
from . import chunked, eager, flex, sdpa, tracing
from .limits import Limits, budget
from .lists import ListBackend, gather, native, triton


class Backend(Protocol):
    """A backend: a module, or lists of keys with a set of kernels."""

    LIMITS: Limits

    def attend(
        self, mechanism: Mechanism, problem: Problem, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """See :func:`attend`."""
        ...


BACKENDS: dict[str, Backend] = {
    "native": ListBackend(native),
    "triton": ListBackend(triton),
    "flex": flex,
    "sdpa": sdpa,
    "gather": ListBackend(gather),
    "chunked": chunked,
    "eager": eager,
}
"""By name, in order of preference; the last one can compute everything."""

# Up to this many scores the dense product costs less than lists, chunks and masks made in PyTorch.
EAGER_SCORES = 1 << 21
# Gathering lists of more than one key in this many costs more than the product with all keys.
GATHER_SHARE = 16

RAN: dict[str, set[str]] = {}
"""Backends that have computed each mechanism in this process, for reports; calls in compiled graphs do not count."""


@dataclass(frozen=True)
class Explanation:
    """Which backend computes a problem, and the objections of the others.

    Attributes:
        problem: description of the mechanism and the problem.
        chosen: the chosen backend.
        reason: why it was chosen, or that it was requested by name.
        objections: for every backend, why it cannot compute the problem; empty if it can.
    """

    problem: str
    chosen: str
    reason: str
    objections: dict[str, list[str]]

    def __str__(self) -> str:
        width = max(map(len, self.objections))
        return "\n".join([self.problem, *(f"  {name:{width}}  {verdict}" for name, verdict in self._lines())])

    def _repr_html_(self) -> str:
        return self.html()

    def html(self, where: str = "") -> str:
        """A table for notebooks; ``where`` comes before the problem."""
        return html_table([["backend", "verdict"], *self._lines()], where + self.problem)

    def _lines(self) -> list[tuple[str, str]]:
        """Name and verdict of every backend."""
        return [
            (name, f"chosen: {self.reason}" if name == self.chosen else "; ".join(found) or "possible")
            for name, found in self.objections.items()
        ]


def check(backend: str) -> str:
    """Return ``backend`` if it names one.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(backend, str) or backend not in ("auto", *BACKENDS):
        raise ValueError(f"unknown backend {shown(backend)}; expected one of auto, {', '.join(BACKENDS)}")
    return backend


def explain(
    mechanism: Mechanism, problem: Problem, return_weights: bool = False, backend: str = "auto"
) -> Explanation:
    """The backend that ``backend`` (``"auto"`` or a name) resolves to, and the objections of all."""
    objections = {name: each.LIMITS.objections(mechanism, problem, return_weights) for name, each in BACKENDS.items()}
    chosen, reason = backend, "asked for by name"
    if check(backend) == "auto":
        chosen, reason = _choose(mechanism, problem, return_weights)
    return Explanation(_describe(mechanism, problem), chosen, reason, objections)


def attend(
    mechanism: Mechanism, problem: Problem, return_weights: bool = False, backend: str = "auto"
) -> tuple[Tensor, Tensor | None]:
    """Attention of ``problem`` under ``mechanism``.

    Returns:
        ``(output, weights)``: ``[batch, heads, queries, value_dim]`` in the type of ``value``, and the weights
        before dropout, ``[batch, heads, queries, keys]`` in the type of ``query``, or None if not requested.

    Raises:
        ValueError: ``backend`` is unknown or cannot compute the problem; lists the reasons, and the backends that can.
    """
    if check(backend) == "auto":
        backend, _ = _choose(mechanism, problem, return_weights)
    elif found := BACKENDS[backend].LIMITS.objections(mechanism, problem, return_weights):
        others = explain(mechanism, problem, return_weights).objections
        raise ValueError(
            f"backend {backend!r} cannot compute {_describe(mechanism, problem)}: {'; '.join(found)}; expected one of "
            f"{', '.join(['auto', *(name for name, found in others.items() if not found)])}"
        )
    if not torch.compiler.is_compiling():
        RAN.setdefault(mechanism.name, set()).add(backend)
    # autocast would turn the float32 scores back into half precision; some devices have none
    device = problem.query.device.type
    device = device if torch.amp.is_autocast_available(device) else "cpu"
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        output, weights = BACKENDS[backend].attend(mechanism, problem, return_weights)
    if output.dtype != problem.value.dtype:
        output = output.to(problem.value.dtype)
    return output, None if weights is None else weights.to(problem.query.dtype)


def _choose(mechanism: Mechanism, problem: Problem, return_weights: bool) -> tuple[str, str]:
    compiling = torch.compiler.is_compiling()
    if not compiling and (traced := tracing.objection(problem)) is not None:
        return "eager", f"the formula, since {traced}"
    batch, heads, queries, keys = problem.shape
    reason = "the first in this order that can"
    small = batch * heads * queries * keys <= EAGER_SCORES
    for name, backend in BACKENDS.items():
        over_lists = isinstance(backend, ListBackend)
        compiled = over_lists and backend.compiled
        if (
            (small and not compiled and backend is not sdpa)
            or (compiling and not backend.LIMITS.in_graphs)
            or not backend.LIMITS.allow(mechanism, problem, return_weights)
        ):
            continue
        if over_lists and not compiled and (most := budget(mechanism, keys)) * GATHER_SHARE > keys:
            reason = f"a product costs less than gathering up to {most} of {keys} keys a query"
            continue
        return name, reason
    return "eager", f"without kernels of our own, the cheapest up to {EAGER_SCORES} scores"


def _describe(mechanism: Mechanism, problem: Problem) -> str:
    batch, heads, queries, keys = problem.shape
    query, kind = problem.query, "causal" if problem.visibility.causal else "bidirectional"
    sizes = f"batch {batch}, heads {heads}, queries {queries}, keys {keys}, head_dim {query.shape[-1]}"
    return f"{mechanism.spec} ({kind}, {sizes}, {str(query.dtype).removeprefix('torch.')} on {query.device})"
