"""Parts of messages: a value or an error on one line, the name that was probably meant, and a check of integers."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable
from reprlib import Repr
from typing import Any

LONGEST_SHOWN = 160
"""Approximate limit of the characters shown of a value."""
SIMILARITY = 0.6
"""Similarity of two words, from 0 to 1, above which one may be a misspelling of the other."""
LONGEST_COMPARED = 100
"""Characters of the longest word that is compared: the time grows with the square of its length."""

_BRIEF = Repr()
_BRIEF.maxlevel = 4
_BRIEF.maxdict = _BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxset = 8
_BRIEF.maxstring = _BRIEF.maxother = LONGEST_SHOWN


def shown(value: Any) -> str:
    """``repr(value)`` on one line, with its middle left out where it is long or deep."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"<an integer of {value.bit_length()} bits>"
    text = " ".join(_BRIEF.repr(value).split())
    half = LONGEST_SHOWN // 2
    return text if len(text) <= LONGEST_SHOWN else f"{text[:half]}...{text[-half:]}"


def brief(error: BaseException) -> str:
    """An exception on one line: its type, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def nearest(word: Any, choices: Iterable[str]) -> str | None:
    """The choice that ``word`` probably misspells, the first of equally similar ones; None if none is similar."""
    if not isinstance(word, str) or len(word) > LONGEST_COMPARED:
        return None
    similarity = {choice: difflib.SequenceMatcher(None, word, choice).ratio() for choice in choices}
    best = max(similarity, key=similarity.get, default=None)
    if best is not None and similarity[best] >= SIMILARITY:
        return best
    within = [choice for choice in similarity if len(word) > 2 and (word in choice or choice in word)]
    return max(within, key=similarity.get, default=None)


def did_you_mean(word: Any, choices: Iterable[str]) -> str:
    """``" (did you mean 'name'?)"``, to append to a rejected value; empty if no choice is similar."""
    found = nearest(word, choices)
    return "" if found is None else f" (did you mean {found!r}?)"


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of any type, including NumPy's; booleans do not count."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_integer(name: str, value: Any, least: int) -> int:
    """The value as an ``int``.

    Raises:
        ValueError: it is not an integer, or below ``least``.
    """
    if not is_integer(value) or value < least:
        raise ValueError(f"{name}={shown(value)}; expected an integer of at least {least}")
    return int(value)
