"""A command in a process of its own, with one CPU thread.

Only the standard library is needed here, as executors send this code to other machines.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PAUSE = 0.2
"""Seconds between two looks at a process."""


def start(command: Sequence[str], output: Path, folder: str | None = None) -> subprocess.Popen:
    """Start a command in a folder; what it prints goes to the file ``output``, which is overwritten."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w") as printed:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")},
            preexec_fn=_detach if os.name == "posix" else None,
        )


def perform(command: Sequence[str], output: str, folder: str) -> int:
    """Run a command to its end, and return its exit status; an exception stops it by SIGTERM first."""
    process = start(command, Path(output), folder)
    try:
        while process.poll() is None:
            time.sleep(PAUSE)  # where an exception that another thread asks for is raised
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    return process.returncode


def _detach() -> None:
    """Let Ctrl-C reach the parent alone, which ends its processes in order, and its death reach this one.

    A group of its own and no session, as systems that share the processor among sessions would overrule ``nice``.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # by which Slurm warns submitit alone
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
