"""Declaration of a mechanism's parameters: dataclass fields that check their values."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import torch

from ..messages import is_integer, shown

MOST = 2**31 - 1
"""The largest count: columns in lists are 32-bit integers."""


def count(default: int, meaning: str, minimum: int = 1, maximum: int = MOST, implied: bool = False) -> Any:
    """Declare a dataclass field that holds an integer within bounds; ``implied`` as in :func:`choice`."""

    def check(what: str, value: Any) -> int:
        if not is_integer(value) or not minimum <= value <= maximum:
            raise ValueError(
                f"{what}={shown(value)} is not allowed; expected an integer of at least {minimum} and at most "
                f"{maximum}"
            )
        return int(value)

    return dataclasses.field(default=default, metadata={"check": check, "meaning": meaning, "implied": implied})


def real(
    default: float,
    meaning: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    implied: bool = False,
) -> Any:
    """Declare a dataclass field that holds a finite number within bounds; ``implied`` as in :func:`choice`."""
    bounds = [("at least", operator.ge, minimum), ("above", operator.gt, above)]
    bounds += [("at most", operator.le, maximum), ("below", operator.lt, below)]
    bounds = [bound for bound in bounds if bound[2] is not None]
    expected = " and ".join(f"{words} {limit}" for words, _, limit in bounds)

    def check(what: str, value: Any) -> float:
        fits = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not all(holds(value, limit) for _, holds, limit in bounds):
            raise ValueError(f"{what}={shown(value)} is not allowed; expected a finite number {expected}".rstrip())
        return float(value) + 0.0  # turns -0.0 into 0.0

    return dataclasses.field(default=default, metadata={"check": check, "meaning": meaning, "implied": implied})


def choice(default: str, options: Sequence[str], meaning: str, implied: bool = False) -> Any:
    """Declare a dataclass field that holds one of ``options``; specs leave its default out if it is ``implied``."""

    def check(what: str, value: Any) -> str:
        if value not in options:
            raise ValueError(f"{what}={shown(value)} is not allowed; expected one of {', '.join(map(repr, options))}")
        return value

    return dataclasses.field(default=default, metadata={"check": check, "meaning": meaning, "implied": implied})


@torch.compiler.assume_constant_result  # which graphs cannot ask of a class
def parameters(cls: type) -> list[str]:
    """Names of the parameters of a mechanism class, its own before those it inherits."""
    classes = [base for base in cls.__mro__ if dataclasses.is_dataclass(base)]
    return sorted(fields(cls), key=lambda name: sum(name in fields(base) for base in classes))


@torch.compiler.assume_constant_result
def implied(cls: type) -> list[str]:
    """Names of the parameters of a mechanism class that go without saying at their default."""
    return [name for name, field in fields(cls).items() if field.metadata.get("implied")]


def fields(cls: type) -> dict[str, dataclasses.Field]:
    """Declarations of the parameters of a mechanism class: default, and metadata with ``meaning``."""
    return {field.name: field for field in dataclasses.fields(cls)}
