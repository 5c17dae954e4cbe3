"""Run a grid of trainings, several in parallel, and store a line per run and per evaluation.

    semfocus sweep recipes/configs/paper_cpu.yaml --workers 2

The grid file is described in ``hf_semfocus/grid/points.py``. A point is finished when its line is in ``runs.jsonl``;
after any interruption, the same command continues. ``pandas.read_json("runs.jsonl", lines=True)`` reads the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..console import check_at_least, option, parse
from ..grid import Failure, Point, Results, read_grid, run, training_command
from ..grid.results import RUNS

COMMANDS = ("pretrain",)
"""Commands whose trainings can be swept."""


@dataclass
class SweepOptions:
    """Grid, number of parallel runs, and output folders."""

    grid: str | None = option(None, "YAML file of the grid; also as a positional argument")
    workers: int = option(1, "parallel runs, one CPU thread each")
    retries: int = option(1, "times that a failed run is tried again, after all others")
    output_dir: str | None = option(None, "parent of the runs' folders; outputs/ and the grid's name by default")
    results_dir: str | None = option(None, "folder of runs.jsonl and evaluations.jsonl; output_dir by default")
    dry_run: bool = option(False, "only show what is done and what is left")

    def __post_init__(self) -> None:
        check_at_least("workers", self.workers, 1)
        check_at_least("retries", self.retries, 0)


def main(args: Sequence[str] | None = None) -> list[Failure]:
    """Run all unfinished points, and return failures; any failure makes the exit status 1."""
    [options] = parse(SweepOptions, args=args, about=__doc__, first="grid")
    if options.grid is None:
        raise ValueError("grid=None; expected a YAML file, such as recipes/configs/paper_cpu.yaml")
    folder = Path(options.output_dir or f"outputs/{Path(options.grid).stem}")
    points = read_grid(Path(options.grid), configuration)
    results = Results(Path(options.results_dir) if options.results_dir else folder)
    left = [point for point in points if point not in results]
    print(f"{len(points)} runs: {len(points) - len(left)} done, {len(left)} left", flush=True)
    if options.dry_run:
        print("\n".join(point.name for point in left))
        return []
    failures = run(points, folder, results, _training, options.workers, options.retries)
    for failure in failures:
        print(f"{failure.name} failed with status {failure.status}:\n{failure.last_lines}", flush=True)
    print(f"results: {results.folder / RUNS}", flush=True)
    if failures:
        raise SystemExit(1)
    return failures


def configuration(command: str, arguments: Sequence[str]) -> Mapping[str, Any]:
    """The effective options of a point.

    Raises:
        ValueError: there is no such command for points, or it refuses the options.
    """
    if command not in COMMANDS:
        raise ValueError(f"command={command!r} cannot be swept; expected one of {', '.join(COMMANDS)}")
    return import_module(f"hf_semfocus.cli.{command}").configuration(arguments)


def _training(point: Point, folder: Path) -> list[str]:
    return training_command(point.command, folder, **point.options)
