"""SIGTERM (as sent by a cluster that preempts a job) and Ctrl-C: noted on arrival, handled between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
"""The signals that stop a training, and their names in messages."""
LAUNCHED = "ACCELERATE_MIXED_PRECISION"
"""Environment variable that ``accelerate launch`` always sets."""


def exit_status(number: int) -> int:
    """Exit status of a process ended by a signal; not 0, as the work is not done."""
    return 128 + number


def is_alone() -> bool:
    """Whether this process was started alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


@contextmanager
def stop_noted() -> Iterator[Callable[[], list[bool]]]:
    """Yield a function that tells which of ``NAMES`` have arrived; outside of the main thread none does.

    ``accelerate launch`` does not forward SIGTERM to a single process, but ends: that counts as SIGTERM, too. A second
    Ctrl-C to a lone process raises ``KeyboardInterrupt`` at once; launchers of several processes send two anyway.

    A signal that arrived too late to be handled is raised again at the end.
    """
    came = dict.fromkeys(NAMES, False)
    if threading.current_thread() is not threading.main_thread():
        yield lambda: list(came.values())
        return
    launcher = os.getppid() if LAUNCHED in os.environ else None

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and came[number] and is_alone():
            raise KeyboardInterrupt
        came[number] = True

    def noted() -> list[bool]:
        orphaned = launcher is not None and os.getppid() != launcher and not any(came.values())
        return list({**came, signal.SIGTERM: came[signal.SIGTERM] or orphaned}.values())

    before = {number: signal.signal(number, note) for number in NAMES}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number, is_there in came.items():  # not reached after an exception, such as SystemExit
        if is_there:
            signal.raise_signal(number)


def first(came: Sequence[float]) -> int | None:
    """The signal to handle, given for each of ``NAMES`` the number of processes that received it."""
    return next((number for number, count in zip(NAMES, came, strict=True) if count), None)
