"""What somebody meant who misspelt a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

ALIKE = 0.6
"""Likeness of two words, from 0 to 1, above which one may be the other misspelt."""
LONGEST = 100
"""Characters of a word that is compared at all, which takes time that grows with its square."""


def nearest(word: Any, choices: Iterable[str]) -> str | None:
    """The choice that ``word`` was probably meant to be; None if none is near. Of equals the first counts."""
    if not isinstance(word, str) or len(word) > LONGEST:
        return None
    likeness = {choice: difflib.SequenceMatcher(None, word, choice).ratio() for choice in choices}
    best = max(likeness, key=likeness.get, default=None)
    if best is not None and likeness[best] >= ALIKE:
        return best
    return next((choice for choice in likeness if len(word) > 2 and (word in choice or choice in word)), None)


def did_you_mean(word: Any, choices: Iterable[str]) -> str:
    """``" (did you mean 'name'?)"``, to follow what was refused; empty if no choice is near."""
    found = nearest(word, choices)
    return "" if found is None else f" (did you mean {found!r}?)"
