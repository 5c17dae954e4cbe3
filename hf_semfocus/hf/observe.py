"""Watch the calls of attention functions; nothing is done while nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from .. import backends
from ..attention.problem import Problem
from ..mechanisms import Mechanism


@dataclass(frozen=True)
class Call:
    """One call of an attention function, before anything is computed.

    Attributes:
        module: the attention layer.
        mechanism: what it attends with; full attention has the name ``full``.
        problem: queries, keys, values, who may see whom, and what else bears on the scores.
        weights: whether the weights of all keys are asked for.
        backend: the backend that is asked for, or ``auto``; the name of a dense attention of Transformers.
    """

    module: nn.Module
    mechanism: Mechanism
    problem: Problem
    weights: bool
    backend: str


_WATCHERS: dict[object, tuple[frozenset[nn.Module], Callable[[Call], None]]] = {}


@contextmanager
def watch(model: nn.Module, tell: Callable[[Call], None]) -> Iterator[None]:
    """Call ``tell`` with every call of our attention functions by a layer of ``model`` while the context is open.

    Calls from any thread count. :func:`hf_semfocus.hf.dense.watch` is told of Transformers' own attention, too.
    """
    token = object()
    _WATCHERS[token] = frozenset(model.modules()), tell
    try:
        yield
    finally:
        del _WATCHERS[token]


def watched(module: nn.Module) -> bool:
    """Whether anybody is to be told of the calls of ``module``."""
    return bool(_WATCHERS) and any(module in modules for modules, _ in list(_WATCHERS.values()))


def saw(call: Call) -> None:
    """Tell whoever watches its module of a call."""
    for modules, tell in list(_WATCHERS.values()):
        if call.module in modules:
            tell(call)


def ran() -> dict[str, list[str]]:
    """Which backends have computed which mechanisms in this process."""
    return {name: sorted(found) for name, found in sorted(backends.RAN.items())}
