"""Points side by side in processes of this machine.

Every point has a folder of its own, whose training resumes from its last checkpoint. What ends this process ends the
others in order: they save and stop.
"""

from __future__ import annotations

import ctypes
import json
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

from ..training.files import locked
from ..training.log import read
from ..training.signals import NAMES, exit_status, stop_noted
from .points import Point
from .results import Results

SHOWN = ("train_loss", "eval_loss", "eval_accuracy")
LAST_LINES = 15
PAUSE = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Failure:
    """A point that ended without a result: which, with what status, and what it said last."""

    point: Point
    status: int
    said: str


class _Worker:
    """A process that runs a point, and its line on the terminal."""

    def __init__(self, point: Point, tries: int, folder: Path, command: Sequence[str], place: int):
        self.point, self.tries, self.folder, self.place = point, tries, folder, place
        self.log, self.seen = folder / "metrics.jsonl", 0
        self.line = tqdm(total=0, position=place, bar_format="{desc}", desc=self._named("starts"), disable=None)
        folder.mkdir(parents=True, exist_ok=True)
        with _output(folder).open("w") as output:
            self.process = subprocess.Popen(
                [*command, "--output_dir", str(folder), "--resume"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")},
                start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others in order
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def look(self) -> None:
        """Show the last evaluation, where the log has grown."""
        size = self.log.stat().st_size if self.log.exists() else 0
        if self.line.disable or size == self.seen:
            return
        self.seen = size
        with suppress(ValueError, IndexError):  # a line that is being written
            last = read(self.log)[-1]
            shown = [f"{name} {last[name]:.4f}" for name in SHOWN if last.get(name) is not None]
            self.line.set_description_str(self._named(f"epoch {last['epoch']:g}, {', '.join(shown)}"))

    def result(self) -> dict[str, Any] | None:
        """What the run ended with; None if it has not, or with an error."""
        found = list(self.folder.glob("runs/*/result.json"))
        if self.process.returncode != 0 or len(found) != 1:
            return None
        return json.loads(found[0].read_text(encoding="utf-8"))

    def end(self) -> None:
        """Wait for the process, and take its line off the terminal."""
        self.process.wait()
        self.line.close()

    def _named(self, state: str) -> str:
        return f"  {self.point.name[:60]}: {state}"


def run(
    points: Sequence[Point],
    folder: Path,
    results: Results,
    command: Callable[[Point], Sequence[str]],
    workers: int = 1,
    retries: int = 1,
) -> list[Failure]:
    """Run every point that is not finished, and write down what it found.

    Args:
        points: in this order, as far as several at a time have one.
        folder: where each gets a folder of its name.
        results: of this grid; what is in there is finished.
        command: from a point to the program that runs it, without its output folder.
        workers: processes at a time, of one thread each.
        retries: how often a point that failed is run again, after all others.

    Returns:
        The points that failed to the last.

    Raises:
        ValueError: another process runs a grid in this folder.
        SystemExit: after SIGTERM or Ctrl-C, once all processes have saved their state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = deque((point, retries) for point in points if point not in results)
    done = len(points) - len(waiting)
    total = tqdm(total=len(points), initial=done, desc="runs", disable=None)
    failures: list[Failure] = []
    running: list[_Worker] = []
    with closing(locked(folder / ".lock")), closing(total), stop_noted() as came:
        try:
            while (waiting or running) and not any(came()):
                while waiting and len(running) < workers:
                    point, tries = waiting.popleft()
                    place = min(set(range(1, workers + 1)) - {worker.place for worker in running})
                    running.append(_Worker(point, tries, folder / point.name, command(point), place))
                time.sleep(PAUSE)
                for worker in list(running):
                    worker.look()
                    if worker.process.poll() is None:
                        continue
                    running.remove(worker)
                    worker.end()
                    if (found := worker.result()) is not None:
                        results.add(worker.point, found, read(worker.log))
                        done += 1
                        total.update()
                        total.write(f"run {done} of {len(points)}, {worker.point.name}: {_outcome(found)}")
                    elif worker.tries:
                        waiting.append((worker.point, worker.tries - 1))
                    else:
                        said = _tail(_output(worker.folder))
                        failures.append(Failure(worker.point, worker.process.returncode, said))
        finally:
            for worker in running:
                worker.process.terminate()
            for worker in running:
                worker.end()
        for number, stops in zip(NAMES, came(), strict=True):
            if stops:
                print(f"stopped by {NAMES[number]}; the same command goes on from there", flush=True)
                raise SystemExit(exit_status(number))
    return failures


def _output(folder: Path) -> Path:
    """What a process prints, beside its folder, which is its own."""
    return folder.with_name(folder.name + ".txt")


def _end_with_parent() -> None:
    """Have this process asked to stop when its parent dies, however it dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _outcome(result: Mapping[str, Any]) -> str:
    reached = result.get("reached")
    return result["status"] + (f" in epoch {reached['epoch']:g}" if reached else "")


def _tail(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-LAST_LINES:])
