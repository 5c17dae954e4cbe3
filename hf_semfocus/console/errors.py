"""User errors end a command with one line; others keep their traceback."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import no_space
from .signals import LAUNCHED, exit_status, is_alone

OURS = Path(__file__).parents[1]


@contextmanager
def one_line_errors(resumes: bool = False) -> Iterator[None]:
    """End the process with status 2 and the error's message if this package raised it.

    An error from elsewhere, such as PyTorch, may be a bug and passes through, unless the disk is full, or it says that
    an optional package is not installed. Ctrl-C ends the process with status 130.

    Args:
        resumes: whether the command has ``--resume``.
    """
    try:
        yield
    except KeyboardInterrupt:
        hint = "; --resume goes on from the last checkpoint, if there is one" if resumes else ""
        print_message(f"interrupted by Ctrl-C{hint}")
        raise SystemExit(exit_status(signal.SIGINT)) from None
    except Exception as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        ours = raised_in.is_relative_to(OURS)
        message = str(error)
        if no_space(error) and not (ours and isinstance(error, ValueError | RuntimeError)):
            message = f"no space left on the disk ({error}); free some, and --resume goes on from the last checkpoint"
        elif not (_tells_what_to_install(error) or (ours and isinstance(error, ValueError | OSError | RuntimeError))):
            raise
        print_message(f"error: {' '.join(message.split())}")
        raise SystemExit(2) from None


def _tells_what_to_install(error: Exception) -> bool:
    """Whether it was raised on purpose; where Python itself fails to import, the error has the name of a module."""
    return isinstance(error, ImportError) and error.name is None and "install" in str(error)


def program() -> str:
    """The program's name for messages: a script's, or ``semfocus COMMAND``."""
    return Path(sys.argv[0]).name


def print_message(message: str) -> None:
    """Print one line on stderr; under ``accelerate launch`` also a note on its traceback."""
    print(f"{program()}: {message}", file=sys.stderr)
    if LAUNCHED in os.environ:
        cure = "; accelerate launch --quiet leaves it out" if is_alone() else ""
        print(f"(a traceback after this line is the launcher's{cure})", file=sys.stderr)
