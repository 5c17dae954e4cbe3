"""Trainings side by side in processes of this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from subprocess import Popen

from .executor import Executor
from .jobs import Job
from .process import PAUSE, start


@dataclass(frozen=True, kw_only=True)
class LocalExecutor(Executor[Popen]):
    """Runs jobs in processes of this machine."""

    def start(self, job: Job) -> Popen:
        """Start a process."""
        return start(job.command, job.output)

    def ended(self, handles: Sequence[Popen]) -> list[Popen]:
        """Those that have ended after a pause."""
        time.sleep(PAUSE)
        return [process for process in handles if process.poll() is not None]

    def status(self, handle: Popen) -> int:
        """Exit status of a process."""
        return handle.returncode

    def stop(self, handles: Sequence[Popen]) -> None:
        """Send SIGTERM to all, then wait."""
        for process in handles:
            process.terminate()
        for process in handles:
            process.wait()
