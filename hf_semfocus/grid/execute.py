"""The points of a grid, each trained in an output folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files import locked
from ..training.log import read
from .executor import Executor
from .jobs import Failure, Job
from .local import LocalExecutor
from .points import Point
from .results import Results


def run(
    points: Sequence[Point],
    folder: Path,
    results: Results,
    command: Callable[[Point, Path], Sequence[str]],
    executor: Executor = LocalExecutor(),  # noqa: B008, frozen
) -> list[Failure]:
    """Run every point that is not finished, and write down what it found.

    Args:
        points: in this order, as far as several at a time have one.
        folder: where each gets a folder of its name.
        results: of this grid; what is in there is finished.
        command: from a point and its folder to the program that runs it, and resumes when it is started again.
        executor: what runs the programs.

    Returns:
        The points that failed to the last.

    Raises:
        ValueError: another process runs a grid in this folder, or writes these results.
        SystemExit: after SIGTERM or Ctrl-C, once all processes have saved their state.
    """

    def finished(job: Job, result: Mapping[str, Any]) -> None:
        results.add(left[job.name], result, read(job.log))

    with ExitStack() as held:
        for place in {folder.resolve(), results.folder.resolve()}:
            place.mkdir(parents=True, exist_ok=True)
            held.enter_context(closing(locked(place / ".lock")))
        results.read()
        left = {point.name: point for point in points if point not in results}
        jobs = [_job(point, folder / name, command(point, folder / name)) for name, point in left.items()]
        before = len(points) - len(left)
        return replace(executor, done_before=before, on_result=finished, on_failure=results.add_failure).run(jobs)


def _job(point: Point, folder: Path, command: Sequence[str]) -> Job:
    def result() -> Mapping[str, Any] | None:
        found = list(folder.glob("runs/*/result.json"))
        return json.loads(found[0].read_text(encoding="utf-8")) if len(found) == 1 else None

    return Job(point.name, command, folder / "metrics.jsonl", folder.with_name(folder.name + ".txt"), result)
