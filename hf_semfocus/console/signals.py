"""SIGTERM, by which a cluster takes a machine back, and Ctrl-C: noted when they come, acted on between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
"""The signals that stop a training, with what a user calls them."""
LAUNCHED = "ACCELERATE_MIXED_PRECISION"
"""Environment variable that ``accelerate launch`` always sets."""


def exit_status(number: int) -> int:
    """Exit status of a process that a signal ended; it is not 0, because the work is not done."""
    return 128 + number


def is_alone() -> bool:
    """Whether this process was started without others."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


@contextmanager
def stop_noted() -> Iterator[Callable[[], list[bool]]]:
    """Yield a function that tells which of ``NAMES`` came; outside of the main thread none ever does.

    ``accelerate launch`` does not pass SIGTERM on to a single process, but ends: that counts as SIGTERM, too.
    A second Ctrl-C does not wait: it is a ``KeyboardInterrupt``. (Launchers of several processes send a second one.)

    A signal that came too late to be acted on is not lost: it is raised again at the end, as if it came only now.
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
    for number, is_there in came.items():  # an exception, such as SystemExit, does not get here
        if is_there:
            signal.raise_signal(number)


def first(came: Sequence[float]) -> int | None:
    """The signal to act on, from numbers that say of each of ``NAMES`` how many processes it came to."""
    return next((number for number, count in zip(NAMES, came, strict=True) if count), None)
