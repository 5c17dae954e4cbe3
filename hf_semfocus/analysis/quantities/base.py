"""The registry of quantities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...messages import did_you_mean, shown
from .rows import Rows


@dataclass(frozen=True)
class AttentionQuantity:
    """Something that is measured of attention.

    Attributes:
        name: in records.
        meaning: in words, with its unit.
        function: for queries, from :class:`Rows` to floating ``[batch, heads, queries]``, NaN where it is not defined;
            for keys, from their in-degrees ``[batch, heads, keys]`` and the number of keys that a query may keep to
            the same shape.
        needs_kept: whether it is about keys that are kept or dropped.
        is_of_keys: whether there is a number per key, rather than per query.
    """

    name: str
    meaning: str
    function: Callable[..., Tensor]
    needs_kept: bool
    is_of_keys: bool


QUANTITIES: dict[str, AttentionQuantity] = {}
"""All quantities by name."""


def of_queries(needs_kept: bool = False) -> Callable[[Callable[[Rows], Tensor]], Callable]:
    """Decorator: register a function of rows as a quantity of its own name; its docstring is the meaning."""
    return lambda function: _register(function, needs_kept, is_of_keys=False)


def of_keys(function: Callable[[Tensor, int], Tensor]) -> Callable:
    """Decorator: the same of a function of in-degrees and k."""
    return _register(function, needs_kept=True, is_of_keys=True)


def chosen(names: Sequence[str] | None) -> list[AttentionQuantity]:
    """The quantities of ``names``, None for all.

    Raises:
        ValueError: one is unknown.
    """
    for name in names or ():
        if name not in QUANTITIES:
            near = did_you_mean(name, QUANTITIES)
            raise ValueError(f"unknown quantity {shown(name)}{near}; expected some of {', '.join(QUANTITIES)}")
    return [QUANTITIES[name] for name in (QUANTITIES if names is None else names)]


def _register(function: Callable, needs_kept: bool, is_of_keys: bool) -> Callable:
    name, meaning = function.__name__, function.__doc__.rstrip(".")
    QUANTITIES[name] = AttentionQuantity(name, meaning, function, needs_kept, is_of_keys)
    return function
