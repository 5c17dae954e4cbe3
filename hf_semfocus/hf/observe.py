"""Who came through: lets ``verify`` and ``explain`` watch the attention function without wrapping anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from .. import backends
from ..attention.problem import Problem
from ..mechanisms import Mechanism


@dataclass(frozen=True)
class Call:
    """What one attention module asked for."""

    mechanism: Mechanism
    problem: Problem
    weights: bool
    backend: str


T = TypeVar("T")
_WATCHERS: dict[int, tuple[dict, Callable]] = {}


def saw(module: nn.Module, mechanism: Mechanism, problem: Problem, weights: bool, backend: str) -> None:
    """Tell whoever watches that ``module`` computes its attention with ``mechanism``."""
    if _WATCHERS:
        for seen, note in list(_WATCHERS.values()):
            seen[module] = note(Call(mechanism, problem, weights, backend))


def mechanism_of(call: Call) -> Mechanism:
    """What :func:`watch` notes of a call unless told otherwise."""
    return call.mechanism


@contextmanager
def watch(note: Callable[[Call], T] = mechanism_of) -> Iterator[dict[nn.Module, T]]:
    """Collect the modules that come through while the context is open, with what ``note`` says of them."""
    seen: dict[nn.Module, T] = {}
    _WATCHERS[id(seen)] = seen, note
    try:
        yield seen
    finally:
        del _WATCHERS[id(seen)]


def ran() -> dict[str, list[str]]:
    """Which back ends have computed which mechanisms in this process."""
    return {name: sorted(found) for name, found in sorted(backends.RAN.items())}
