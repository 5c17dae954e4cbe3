"""What all executors have in common: the order of the jobs, second attempts, what is shown, and stopping.

What ends this process ends the jobs in order: they save and stop, and resume when they are started again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from ..console.signals import NAMES, exit_status, stop_noted
from .jobs import Failure, Job, Watch

Handle = TypeVar("Handle")
"""What an executor knows a job by that it has started."""


@dataclass(frozen=True, kw_only=True)
class Executor(ABC, Generic[Handle]):
    """Runs jobs, several at a time; a subclass says where.

    Attributes:
        workers: jobs at a time; None for as many as the place has processors.
        retries: how often a job that failed is run again, after all others.
        done_before: how many were finished before these, for the count that is shown.
        on_result: called with every job that ends, and its result.
        on_failure: called with every job that failed to the last.
        on_records: called when a job has new records.
        relay: how lines begin that are passed on from what the jobs print, where there is no terminal.
        resumed_by: what continues after a stop, for people.
    """

    workers: int | None = 1
    retries: int = 1
    done_before: int = 0
    on_result: Callable[[Job, Mapping[str, Any]], None] = lambda job, result: None
    on_failure: Callable[[Failure], None] = lambda failure: None
    on_records: Callable[[], object] = lambda: None
    relay: str | None = None
    resumed_by: str = "the same command"

    @abstractmethod
    def start(self, job: Job) -> Handle:
        """Start a job."""

    @abstractmethod
    def ended(self, handles: Sequence[Handle]) -> list[Handle]:
        """Wait for a moment, and return those of the jobs that have ended."""

    @abstractmethod
    def status(self, handle: Handle) -> int | str:
        """Exit status of a job that has ended, or why there is none."""

    @abstractmethod
    def stop(self, handles: Sequence[Handle]) -> None:
        """Have jobs save their state and end, and wait for it."""

    @contextmanager
    def connected(self) -> Iterator[int]:
        """Hold what the jobs need, and yield how many may run at a time."""
        yield self.workers or 1

    def run(self, jobs: Sequence[Job]) -> list[Failure]:
        """Run all jobs, started in this order.

        Returns:
            The jobs that failed to the last.

        Raises:
            SystemExit: after SIGTERM or Ctrl-C, once all jobs have saved their state.
        """
        waiting = deque((job, self.retries) for job in jobs)
        running: dict[Handle, tuple[Watch, int]] = {}
        failures: list[Failure] = []
        total = tqdm(total=self.done_before + len(jobs), initial=self.done_before, desc="runs", disable=None)
        done = self.done_before
        with closing(total), self.connected() as workers, stop_noted() as came:
            try:
                while (waiting or running) and not any(came()):
                    self._fill(running, waiting, workers)
                    for watch, tries, status in self._taken(running):
                        job = watch.job
                        if status == 0 and (result := job.result()) is not None:
                            self.on_result(job, result)
                            done += 1
                            total.update()
                            total.write(f"{done} of {total.total} runs done, {job.name}: {_outcome(result)}")
                        elif tries:
                            waiting.append((job, tries - 1))
                        else:
                            failures.append(Failure.of(job, status))
                            self.on_failure(failures[-1])
            finally:
                self.stop(list(running))
                for watch, _ in running.values():
                    watch.close()
                self.on_records()
            for number, stops in zip(NAMES, came(), strict=True):
                if stops:
                    print(f"stopped by {NAMES[number]}; {self.resumed_by} goes on from there", flush=True)
                    raise SystemExit(exit_status(number))
        return failures

    def _fill(self, running: dict[Handle, tuple[Watch, int]], waiting: deque[tuple[Job, int]], workers: int) -> None:
        """Start jobs while workers are free."""
        while waiting and len(running) < workers:
            place = min(set(range(1, workers + 1)) - {watch.place for watch, _ in running.values()})
            job, tries = waiting.popleft()
            watch = Watch(job, place, self.relay)
            running[self.start(job)] = watch, tries

    def _taken(self, running: dict[Handle, tuple[Watch, int]]) -> list[tuple[Watch, int, int | str]]:
        """Show how far all are, and take those that have ended out of ``running``."""
        ended = self.ended(list(running))
        if sum(watch.has_news() for watch, _ in running.values()):  # each is asked
            self.on_records()
        taken = []
        for handle in ended:
            watch, tries = running.pop(handle)
            watch.close()
            taken.append((watch, tries, self.status(handle)))
        return taken


def _outcome(result: Mapping[str, Any]) -> str:
    reached = result.get("reached")
    return result["status"] + (f" in epoch {reached['epoch']:g}" if reached else "")
