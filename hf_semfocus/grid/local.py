"""Trainings side by side in processes of this machine, of one CPU thread each.

What ends this process ends the others in order: they save and stop, and are resumed when they are started again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..console.display import on_terminal
from ..console.signals import NAMES, exit_status, stop_noted
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
PAUSE = 0.2
"""Seconds between two looks at the processes."""


def program(command: str, *arguments: str) -> list[str]:
    """What starts a command of ``semfocus`` in a process of its own."""
    return [sys.executable, "-c", START, command, *arguments]


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
    said: str


class _Worker:
    """A process that does a job, and its line on the terminal."""

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

    def look(self) -> bool:
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

    def end(self) -> None:
        """Wait for the process, and take its line off the terminal."""
        self.process.wait()
        self.look()
        self.line.close()

    def failure(self) -> Failure:
        """What to tell of a process that left no result."""
        said = self.job.output.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        return Failure(self.job.name, self.process.returncode, "\n".join(said))


def side_by_side(
    jobs: Sequence[Job],
    workers: int,
    retries: int = 1,
    finished: Callable[[Job, Mapping[str, Any]], None] = lambda job, result: None,
    before: int = 0,
    relay: str | None = None,
    recorded: Callable[[], object] = lambda: None,
    again: str = "the same command",
) -> list[Failure]:
    """Do all jobs, several at a time.

    Args:
        jobs: started in this order.
        workers: processes at a time.
        retries: how often a job that failed is done again, after all others.
        finished: called with every job that ends, and its result.
        before: how many were finished before these, for the count that is shown.
        relay: how lines begin that are passed on from what the processes print, where there is no terminal.
        recorded: called when a job has new records.
        again: what goes on after a stop, for people.

    Returns:
        The jobs that failed to the last.

    Raises:
        SystemExit: after SIGTERM or Ctrl-C, once all processes have saved their state.
    """
    waiting = deque((job, retries) for job in jobs)
    total = tqdm(total=before + len(jobs), initial=before, desc="runs", disable=None)
    done, failures, running = before, [], []
    with closing(total), stop_noted() as came:
        try:
            while (waiting or running) and not any(came()):
                while waiting and len(running) < workers:
                    free = min(set(range(1, workers + 1)) - {worker.place for worker in running})
                    running.append(_Worker(*waiting.popleft(), free, relay))
                time.sleep(PAUSE)
                for worker in list(running):
                    if worker.look():
                        recorded()
                    if worker.process.poll() is None:
                        continue
                    running.remove(worker)
                    worker.end()
                    result = worker.job.result() if worker.process.returncode == 0 else None
                    if result is not None:
                        finished(worker.job, result)
                        done += 1
                        total.update()
                        total.write(f"{done} of {total.total} runs done, {worker.job.name}: {_outcome(result)}")
                    elif worker.tries:
                        waiting.append((worker.job, worker.tries - 1))
                    else:
                        failures.append(worker.failure())
        finally:
            for worker in running:
                worker.process.terminate()
            for worker in running:
                worker.end()
            recorded()
        for number, stops in zip(NAMES, came(), strict=True):
            if stops:
                print(f"stopped by {NAMES[number]}; {again} goes on from there", flush=True)
                raise SystemExit(exit_status(number))
    return failures


def _detach() -> None:
    """Let Ctrl-C reach the parent alone, which ends its processes in order, and its death reach this one.

    A group of its own and no session, as systems that share the processor among sessions would overrule ``nice``.
    """
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _outcome(result: Mapping[str, Any]) -> str:
    reached = result.get("reached")
    return result["status"] + (f" in epoch {reached['epoch']:g}" if reached else "")
