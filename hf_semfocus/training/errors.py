"""Mistakes of the user end a recipe with one line; anything else keeps its traceback."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OURS = Path(__file__).parents[1]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with status 2 and the error's message, where this package refused something.

    An error that comes from elsewhere, such as PyTorch, may be nobody's mistake, and passes through.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not (raised_in.is_relative_to(OURS) or raised_in.parent.name == "recipes"):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
