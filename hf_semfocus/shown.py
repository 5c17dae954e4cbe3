"""A value in a message: one line of it at most, whatever it is and whoever wrote it."""

from __future__ import annotations

from reprlib import Repr
from typing import Any

LONGEST = 160
"""About as many characters as are shown of any value."""

_BRIEF = Repr()
_BRIEF.maxlevel = 4
_BRIEF.maxdict = _BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxset = 8
_BRIEF.maxstring = _BRIEF.maxother = LONGEST


def shown(value: Any) -> str:
    """``repr(value)`` on one line, with its middle left out where it is long or deep."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"<an integer of {value.bit_length()} bits>"
    text = " ".join(_BRIEF.repr(value).split())
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]}...{text[-half:]}"
