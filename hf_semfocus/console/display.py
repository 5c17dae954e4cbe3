"""Progress of long work: a bar on a terminal, lines in a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def on_terminal() -> bool:
    """Whether both output streams are a terminal."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def line(*parts: str, file: TextIO | None = None) -> None:
    """Print parts of a line at once, as files and pipes would keep it for later."""
    print(*parts, sep=", ", file=file, flush=True)


def watched(items: Sequence[Item], what: str, show: bool = True, file: TextIO | None = None) -> Iterator[Item]:
    """Go through ``items`` with a bar, or with a line as each begins.

    Args:
        items: what to go through.
        what: a word for it.
        show: whether anything is shown; of several processes one does.
        file: where the lines go; standard output by default.
    """
    if show and not on_terminal():
        return _told(items, what, file)
    return iter(tqdm(items, desc=what, disable=None if show else True))


def _told(items: Iterable[Item], what: str, file: TextIO | None) -> Iterator[Item]:
    items = list(items)
    for number, item in enumerate(items, start=1):
        line(what, f"{number} of {len(items)}", *([item] if isinstance(item, str) else []), file=file)
        yield item
