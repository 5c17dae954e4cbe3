"""Mistakes of the user end a recipe with one line; anything else keeps its traceback."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..disk import no_space

OURS = Path(__file__).parents[1]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with status 2 and the error's message, where this package refused something.

    An error that comes from elsewhere, such as PyTorch, may be nobody's mistake, and passes through, unless it says
    that the disk is full.
    """
    try:
        yield
    except Exception as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        ours = raised_in.is_relative_to(OURS) or raised_in.parent.name == "recipes"
        message = str(error)
        if no_space(error) and not (ours and isinstance(error, ValueError | RuntimeError)):
            message = f"no space left on the disk ({error}); free some, and --resume goes on from the last checkpoint"
        elif not (ours and isinstance(error, ValueError | OSError | RuntimeError)):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(2) from None
