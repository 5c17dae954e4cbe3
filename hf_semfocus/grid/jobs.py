"""One training as a command, why it failed, and its line on the terminal."""

from __future__ import annotations

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
SHOWN = ("train_loss", "train_accuracy", "eval_loss", "eval_accuracy")
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
    """A job that ended without a result: its name, its exit status or why there is none, and its last output."""

    name: str
    status: int | str
    last_lines: str

    @classmethod
    def of(cls, job: Job, status: int | str) -> Failure:
        """The failure of a job that has ended."""
        said = job.output.read_text(encoding="utf-8", errors="replace") if job.output.exists() else ""
        return cls(job.name, status, "\n".join(said.splitlines()[-LAST_LINES:]))


class Watch:
    """The line on the terminal of a job that runs.

    Args:
        job: what is watched, through the files that it writes.
        place: number of the line.
        relay: how lines begin that are passed on from what the job prints, where there is no terminal; None for none.
    """

    def __init__(self, job: Job, place: int, relay: str | None):
        self.job, self.place, self.relay, self.passed_on = job, place, relay, 0
        self.seen = self._recorded()
        self.line = tqdm(total=0, position=place, bar_format="{desc}", desc=f"  {job.name}: starts", disable=None)

    def has_news(self) -> bool:
        """Show how far the job is, and tell whether there are new records.

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

    def close(self) -> None:
        """Show the last news, and take the line off the terminal."""
        self.has_news()
        self.line.close()

    def _recorded(self) -> int:
        return self.job.log.stat().st_size if self.job.log.exists() else 0

    def _pass_on(self) -> None:
        if self.relay is None or not self.job.output.exists():
            return
        with self.job.output.open("rb") as output:
            output.seek(self.passed_on)
            *lines, _ = output.read().split(b"\n")
        self.passed_on += sum(len(line) + 1 for line in lines)
        for line in lines:
            if line.startswith(self.relay.encode()):
                print(line.decode(errors="replace"), flush=True)
