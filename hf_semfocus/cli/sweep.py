"""Run a grid of trainings, several side by side, and keep a line of each run and of each evaluation.

    semfocus sweep recipes/configs/paper_cpu.yaml --workers 2

The grid file is described in ``hf_semfocus/grid/points.py``. A point is finished when its line is in ``runs.jsonl``;
whatever ends this command, the same command goes on. ``pandas.read_json("runs.jsonl", lines=True)`` reads the results.
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
"""Commands whose trainings can be points."""


@dataclass
class SweepOptions:
    """Which grid, how many runs at a time, and where the results go."""

    grid: str | None = option(None, "YAML file of the grid; may also be given without its name")
    workers: int = option(1, "runs at a time, one CPU thread each")
    retries: int = option(1, "how often a run that failed is tried again, after all others")
    output_dir: str | None = option(None, "where every run has its folder; outputs/ and the grid's name by default")
    results_dir: str | None = option(None, "where runs.jsonl and evaluations.jsonl are; output_dir by default")
    dry_run: bool = option(False, "only tell what is done and what is left")

    def __post_init__(self) -> None:
        check_at_least("workers", self.workers, 1)
        check_at_least("retries", self.retries, 0)


def main(args: Sequence[str] | None = None) -> list[Failure]:
    """Run what is not finished yet, and return what failed; anything that did ends the process with status 1."""
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
    """The options in force of a point.

    Raises:
        ValueError: there is no such command for points, or it refuses the options.
    """
    if command not in COMMANDS:
        raise ValueError(f"command={command!r} cannot be swept; expected one of {', '.join(COMMANDS)}")
    return import_module(f"hf_semfocus.cli.{command}").configuration(arguments)


def _training(point: Point, folder: Path) -> list[str]:
    return training_command(point.command, folder, **point.options)
