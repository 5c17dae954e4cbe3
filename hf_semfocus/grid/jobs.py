"""One training in a process of its own, with one CPU thread, and its line on the terminal."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..console.display import on_terminal
from ..training.log import read

ROOT = Path(__file__).parents[2]
START = f"""
import sys
sys.path = [*(place for place in sys.path if place), {str(ROOT)!r}]
from hf_semfocus.cli.command import main
main()
"""
"""The command ``semfocus``, whatever files lie in the working directory."""
SHOWN = ("train_loss", "eval_loss", "eval_accuracy")
LAST_LINES = 15


def semfocus(*arguments: str) -> list[str]:
    """What runs ``semfocus`` with these arguments in a process of its own."""
    return [sys.executable, "-c", START, *arguments]


def training_command(command: str, folder: Path, **options: Any) -> list[str]:
    """What trains on one thread in a process of its own, and resumes when it is started again.

    Args:
        command: of ``semfocus``, such as "pretrain".
        folder: its ``output_dir``.
        **options: all others by name; those that are None are left out.
    """
    return semfocus(command, *as_arguments({**options, "output_dir": folder, "cpu_threads": 1}), "--resume")


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as arguments of a command."""
    given = {name: value for name, value in options.items() if value is not None}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: for people.
        command: the program and its arguments; when it is started again, it resumes.
        log: its records, as they come.
        output: what it prints.
        result: what it ended with; None if it has not.
    """

    name: str
    command: Sequence[str]
    log: Path
    output: Path
    result: Callable[[], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Failure:
    """A job that ended without a result: which, with what status, and what it said last."""

    name: str
    status: int
    last_lines: str


class Worker:
    """A process that does a job, and its line on the terminal.

    Args:
        job: what it does.
        tries: how often the job may be done again if it fails.
        place: line on the terminal.
        relay: how lines begin that are passed on from what it prints, where there is no terminal; None for no line.
    """

    def __init__(self, job: Job, tries: int, place: int, relay: str | None):
        self.job, self.tries, self.place, self.relay, self.passed_on = job, tries, place, relay, 0
        self.seen = self._recorded()
        self.line = tqdm(total=0, position=place, bar_format="{desc}", desc=f"  {job.name}: starts", disable=None)
        job.output.parent.mkdir(parents=True, exist_ok=True)
        with job.output.open("w") as output:
            self.process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")},
                preexec_fn=_detach if os.name == "posix" else None,
            )

    def has_news(self) -> bool:
        """Show how far it is, and tell whether there are new records.

        On a terminal that is the last evaluation; in a file or a pipe, the lines that are to be passed on.
        """
        if not on_terminal():
            self._pass_on()
        recorded = self._recorded()
        if recorded == self.seen:
            return False
        self.seen = recorded
        with suppress(ValueError, IndexError):  # a line that is being written
            last = read(self.job.log)[-1]
            shown = [f"{name} {last[name]:.4f}" for name in SHOWN if last.get(name) is not None]
            self.line.set_description_str(f"  {self.job.name}: epoch {last['epoch']:g}, {', '.join(shown)}")
        return True

    def end(self) -> None:
        """Wait for the process, and take its line off the terminal."""
        self.process.wait()
        self.has_news()
        self.line.close()

    def result(self) -> Mapping[str, Any] | None:
        """What the job ended with; None if the process failed."""
        return self.job.result() if self.process.returncode == 0 else None

    def failure(self) -> Failure:
        """What to tell of a process that left no result."""
        said = self.job.output.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        return Failure(self.job.name, self.process.returncode, "\n".join(said))

    def _recorded(self) -> int:
        return self.job.log.stat().st_size if self.job.log.exists() else 0

    def _pass_on(self) -> None:
        if self.relay is None:
            return
        with self.job.output.open("rb") as output:
            output.seek(self.passed_on)
            *lines, _ = output.read().split(b"\n")
        self.passed_on += sum(len(line) + 1 for line in lines)
        for line in lines:
            if line.startswith(self.relay.encode()):
                print(line.decode(errors="replace"), flush=True)


def _detach() -> None:
    """Let Ctrl-C reach the parent alone, which ends its processes in order, and its death reach this one.

    A group of its own and no session, as systems that share the processor among sessions would overrule ``nice``.
    """
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
