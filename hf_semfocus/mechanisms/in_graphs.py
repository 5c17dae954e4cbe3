"""What a graph of ``torch.compile`` is tied to: made while it is compiled, outside of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")
REMEMBERED = 256
"""How many objects a function keeps for graphs; those that are compiled later replace the oldest."""


def fixed(value: Any) -> Any:
    """``value``, which a graph is compiled for: without it, a graph takes a float that has changed for a variable."""
    return float.fromhex(value.hex()) if torch.compiler.is_compiling() and isinstance(value, float) else value


def constant_in_graphs(make: Callable[..., Made]) -> Callable[..., Made]:
    """Decorator of a function whose result is a constant of any graph that calls it.

    A graph reads no more than the fields of a constant object, so it is given a key, a string, under which it finds
    the object itself. The arguments must tell one result from another by their ``repr``.
    """
    made = SimpleNamespace()  # a dict would be to a graph what it was when the graph first read it

    @torch.compiler.assume_constant_result
    def keep(*args: Any) -> str:
        key = f"_{repr(args).encode().hex()}"  # attributes that graphs read have no dots
        setattr(made, key, make(*args))
        if len(vars(made)) > REMEMBERED:
            delattr(made, next(iter(vars(made))))
        return key

    @wraps(make)
    def call(*args: Any) -> Made:
        return getattr(made, keep(*args)) if torch.compiler.is_compiling() else make(*args)

    return call
