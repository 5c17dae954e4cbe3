"""Who came through: lets :func:`hf_semfocus.verify` watch the attention function without wrapping anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..mechanisms import Mechanism

_WATCHERS: dict[int, dict[nn.Module, Mechanism]] = {}


def saw(module: nn.Module, mechanism: Mechanism) -> None:
    """Tell whoever watches that ``module`` computes its attention with ``mechanism``."""
    if _WATCHERS:
        for seen in list(_WATCHERS.values()):
            seen[module] = mechanism


@contextmanager
def watch() -> Iterator[dict[nn.Module, Mechanism]]:
    """Collect the modules that come through while the context is open, with their mechanisms."""
    seen: dict[nn.Module, Mechanism] = {}
    _WATCHERS[id(seen)] = seen
    try:
        yield seen
    finally:
        del _WATCHERS[id(seen)]
