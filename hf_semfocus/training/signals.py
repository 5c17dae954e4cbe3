"""SIGTERM, by which a cluster takes a machine back: noted when it comes, acted on between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_STATUS = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM ended; it is not 0, because the work is not done."""

LAUNCHED = "ACCELERATE_MIXED_PRECISION"
"""Environment variable that ``accelerate launch`` always sets."""


@contextmanager
def sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGTERM came; outside of the main thread it never does.

    ``accelerate launch`` does not pass SIGTERM on to a single process, but ends: that counts as SIGTERM, too.

    A signal that came too late to be acted on is not lost: it is raised again at the end, as if it came only now.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    launcher = os.getppid() if LAUNCHED in os.environ else None
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield lambda: came.is_set() or (launcher is not None and os.getppid() != launcher)
    finally:
        signal.signal(signal.SIGTERM, before)
    if came.is_set():  # an exception, such as SystemExit, does not get here
        signal.raise_signal(signal.SIGTERM)
