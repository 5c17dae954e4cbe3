"""Trainings side by side in processes of this machine.

What ends this process ends the others in order: they save and stop, and are resumed when they are started again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from ..console.signals import NAMES, exit_status, stop_noted
from .jobs import Failure, Job, Worker

PAUSE = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Does jobs in processes of this machine, several at a time.

    Attributes:
        workers: processes at a time.
        retries: how often a job that failed is done again, after all others.
        done_before: how many were finished before these, for the count that is shown.
        on_result: called with every job that ends, and its result.
        on_records: called when a job has new records.
        relay: how lines begin that are passed on from what the processes print, where there is no terminal.
        resumed_by: what goes on after a stop, for people.
    """

    workers: int
    retries: int = 1
    done_before: int = 0
    on_result: Callable[[Job, Mapping[str, Any]], None] = lambda job, result: None
    on_records: Callable[[], object] = lambda: None
    relay: str | None = None
    resumed_by: str = "the same command"

    def run(self, jobs: Sequence[Job]) -> list[Failure]:
        """Do all jobs, started in this order.

        Returns:
            The jobs that failed to the last.

        Raises:
            SystemExit: after SIGTERM or Ctrl-C, once all processes have saved their state.
        """
        waiting = deque((job, self.retries) for job in jobs)
        running: list[Worker] = []
        failures: list[Failure] = []
        total = tqdm(total=self.done_before + len(jobs), initial=self.done_before, desc="runs", disable=None)
        done = self.done_before
        with closing(total), stop_noted() as came:
            try:
                while (waiting or running) and not any(came()):
                    self._fill(running, waiting)
                    time.sleep(PAUSE)
                    for worker in self._ended(running):
                        if (result := worker.result()) is not None:
                            self.on_result(worker.job, result)
                            done += 1
                            total.update()
                            total.write(f"{done} of {total.total} runs done, {worker.job.name}: {_outcome(result)}")
                        elif worker.tries:
                            waiting.append((worker.job, worker.tries - 1))
                        else:
                            failures.append(worker.failure())
            finally:
                self._stop(running)
            for number, stops in zip(NAMES, came(), strict=True):
                if stops:
                    print(f"stopped by {NAMES[number]}; {self.resumed_by} goes on from there", flush=True)
                    raise SystemExit(exit_status(number))
        return failures

    def _fill(self, running: list[Worker], waiting: deque[tuple[Job, int]]) -> None:
        """Start jobs while workers are free."""
        while waiting and len(running) < self.workers:
            place = min(set(range(1, self.workers + 1)) - {worker.place for worker in running})
            running.append(Worker(*waiting.popleft(), place, self.relay))

    def _ended(self, running: list[Worker]) -> list[Worker]:
        """Show how far all are, and take those that have ended out of ``running``."""
        for worker in running:
            if worker.has_news():
                self.on_records()
        ended = [worker for worker in running if worker.process.poll() is not None]
        for worker in ended:
            running.remove(worker)
            worker.end()
        return ended

    def _stop(self, running: list[Worker]) -> None:
        for worker in running:
            worker.process.terminate()
        for worker in running:
            worker.end()
        self.on_records()


def _outcome(result: Mapping[str, Any]) -> str:
    reached = result.get("reached")
    return result["status"] + (f" in epoch {reached['epoch']:g}" if reached else "")
