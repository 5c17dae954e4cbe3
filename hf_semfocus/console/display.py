"""Progress of long work: a bar on a terminal, lines in a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def on_terminal() -> bool:
    """Whether stdout and stderr are terminals."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def line(*parts: str, file: TextIO | None = None) -> None:
    """Print the parts of a line without buffering."""
    print(*parts, sep=", ", file=file, flush=True)


def watched(items: Sequence[Item], what: str, show: bool = True, file: TextIO | None = None) -> Iterator[Item]:
    """Iterate over ``items`` with a progress bar, or a line per item.

    Args:
        items: a sequence.
        what: description of the items.
        show: whether to show progress; one of several processes does.
        file: stream for the lines; standard output by default.
    """
    if show and not on_terminal():
        return _told(items, what, file)
    return iter(tqdm(items, desc=what, disable=None if show else True))


def _told(items: Iterable[Item], what: str, file: TextIO | None) -> Iterator[Item]:
    items = list(items)
    for number, item in enumerate(items, start=1):
        line(what, f"{number} of {len(items)}", *([item] if isinstance(item, str) else []), file=file)
        yield item
