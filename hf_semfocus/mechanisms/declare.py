"""How a mechanism declares its parameters: fields of its dataclass that check what they are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..messages import is_integer, shown

MOST = 2**31 - 1
"""The largest count: lists hold columns of 32 bits."""


def count(default: int, meaning: str, minimum: int = 1, maximum: int = MOST) -> Any:
    """Declare a dataclass field that holds an integer from ``minimum`` to ``maximum``."""

    def check(what: str, value: Any) -> int:
        if not is_integer(value) or not minimum <= value <= maximum:
            raise ValueError(
                f"{what}={shown(value)} is not allowed; expected an integer of at least {minimum} and at most "
                f"{maximum}"
            )
        return int(value)

    return dataclasses.field(default=default, metadata={"check": check, "meaning": meaning})


def choice(default: str, options: Sequence[str], meaning: str) -> Any:
    """Declare a dataclass field that holds one of ``options``."""

    def check(what: str, value: Any) -> str:
        if value not in options:
            raise ValueError(f"{what}={shown(value)} is not allowed; expected one of {', '.join(map(repr, options))}")
        return value

    return dataclasses.field(default=default, metadata={"check": check, "meaning": meaning})
