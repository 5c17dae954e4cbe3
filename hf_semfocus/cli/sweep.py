"""Run a grid of trainings, several in parallel, and store a line per run and per evaluation.

    semfocus sweep recipes/configs/paper_cpu.yaml --workers 2
    semfocus sweep recipes/configs/paper_full.yaml --executor ray --address 10.0.0.1:6379 --gpus 0.25
    semfocus sweep recipes/configs/paper_full.yaml --executor slurm --partition long --minutes 240 --workers 50
    semfocus sweep recipes/configs/paper_cpu.yaml --dry_run
    semfocus sweep recipes/configs/paper_cpu.yaml --only failed
    semfocus sweep recipes/configs/k_plateau.yaml --finished_in recipes/results/paper_cpu
    semfocus sweep recipes/configs/paper_cpu.yaml --table runs.parquet
    semfocus sweep recipes/configs/paper_cpu.yaml --test_lengths 40 80 160
    semfocus sweep recipes/configs/paper_cpu.yaml --quantities

The grid file is described in ``hf_semfocus/grid/points.py``. A point is finished when its line is in ``runs.jsonl``;
after any interruption, the same command continues. ``pandas.read_json("runs.jsonl", lines=True)`` reads the results.
A Ray cluster with token authentication takes the token of the environment: ``RAY_AUTH_MODE=token`` and
``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from ..console import check_at_least, check_folder, check_parent, check_unset, option, parse
from ..data import tasks
from ..experiments import evaluate_lengths, measure_quantities
from ..grid import (
    Executor,
    Failure,
    LocalExecutor,
    Point,
    RayExecutor,
    Results,
    SlurmExecutor,
    read_grid,
    run,
    training_command,
)
from ..grid.cost import cost, hours, steps_at_most
from ..grid.points import digest_of
from ..grid.results import LENGTHS, QUANTITIES, RUNS, TIMES
from ..training import TrainingOptions, start

INSTEAD = ("table", "test_lengths", "quantities", "dry_run")
"""Options that do something else than train."""
COMMANDS = ("pretrain", "finetune")
"""Commands whose trainings can be swept."""


@dataclass
class SweepOptions:
    """Grid, executor, and output folders."""

    grid: str | None = option(None, "YAML file of the grid; also as a positional argument")
    executor: Literal["local", "ray", "slurm"] = option("local", "local processes, a Ray cluster, or Slurm")
    workers: int | None = option(
        None, "parallel runs, one CPU thread each; by default 1, with ray all CPUs, with slurm 16"
    )
    address: str | None = option(None, "ray: address of a running cluster; by default one is started here")
    gpus: float = option(0.0, "ray, slurm: GPUs of a run; with ray also a share, such as 0.25")
    partition: str | None = option(None, "slurm: partition of the jobs")
    minutes: int | None = option(None, "slurm: time limit of a job, a day by default; what it ends is tried again")
    retries: int = option(1, "times that a failed run is tried again, after all others")
    output_dir: str | None = option(None, "parent of the runs' folders; outputs/ and the grid's name by default")
    results_dir: str | None = option(None, "folder of runs.jsonl and evaluations.jsonl; output_dir by default")
    finished_in: list[str] = option([], "folders of other results: runs finished there are not run again")  # noqa: RUF009
    only: Literal["failed"] | None = option(None, "run only the points that have failed")
    times: list[str] = option([], "folders of other results whose measured steps count for the cost")  # noqa: RUF009
    table: str | None = option(None, "only write the results as a flat table to this .parquet or .csv file")
    test_lengths: list[int] = option([], "only test the best models of finished runs on rows of these lengths")  # noqa: RUF009
    quantities: bool = option(False, "only measure the attention of the best models of finished runs, for the theory")
    dry_run: bool = option(False, "only show what is done, what is left, and what that costs")

    def __post_init__(self) -> None:
        check_at_least("workers", self.workers, 1)
        check_at_least("retries", self.retries, 0)
        if not self.gpus >= 0:
            raise ValueError(f"gpus={self.gpus!r}; expected a number of at least 0")
        for length in self.test_lengths:
            check_at_least("test_lengths", length, 1)
        if self.table is not None and Path(self.table).suffix not in (".parquet", ".csv"):
            raise ValueError(f"table={self.table!r}; expected a name that ends in .parquet or .csv")
        check_parent("table", self.table)
        if len(asked := [name for name in INSTEAD if getattr(self, name)]) > 1:
            given = ", ".join(f"{name}={getattr(self, name)!r}" for name in asked)
            raise ValueError(f"{given}; expected one of them at most, as each is done instead of training")
        for name in ("output_dir", "results_dir"):
            check_folder(name, getattr(self, name))
        for name, file in (("times", TIMES), ("finished_in", RUNS)):
            for folder in getattr(self, name):
                if not (Path(folder) / file).is_file():
                    raise ValueError(f"{name}={folder!r}: no {file} in it; expected the results_dir of a sweep")
        if self.minutes is not None:
            check_at_least("minutes", self.minutes, 1)
        if self.executor == "slurm" and self.gpus % 1:
            raise ValueError(f"gpus={self.gpus!r}; expected a whole number with executor='slurm'")
        without = {"ray": ("partition", "minutes"), "slurm": ("address",)}
        all_of_them = ("address", "gpus", "partition", "minutes")
        check_unset(self, without.get(self.executor, all_of_them), f"with executor={self.executor!r}")


def main(args: Sequence[str] | None = None) -> list[Failure]:
    """Run all unfinished points, and return failures; any failure makes the exit status 1."""
    [options] = parse(SweepOptions, args=args, about=__doc__, first="grid")
    if options.grid is None:
        raise ValueError("grid=None; expected a YAML file, such as recipes/configs/paper_cpu.yaml")
    folder = Path(options.output_dir or f"outputs/{Path(options.grid).stem}")
    results = Results(Path(options.results_dir) if options.results_dir else folder)
    if options.table is not None:
        return _write_table(results, Path(options.table))
    points = read_grid(Path(options.grid), configuration)
    done = [point for point in points if point in results]
    if options.test_lengths:
        return _test_lengths(done, folder, results, options.test_lengths)
    if options.quantities:
        return _measure_quantities(done, folder, results)
    elsewhere = [Results(Path(each)) for each in options.finished_in]
    own = [point for point in points if not any(point in each for each in elsewhere)]
    left = [point for point in own if point not in results]
    failed = [point for point in left if point.name in results.failed]
    print(f"{len(points)} runs: {len(points) - len(left)} done, {len(left)} left, {len(failed)} of them failed before")
    wanted = failed if options.only else left
    print(_rest(wanted, [results, *map(Results, map(Path, options.times))], options.workers or 1), flush=True)
    if options.dry_run:
        print("\n".join(point.name for point in wanted))
        return []
    failures = run(failed if options.only else own, folder, results, _training, _executor(options, folder))
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


def _executor(options: SweepOptions, folder: Path) -> Executor:
    shared = {"workers": options.workers, "retries": options.retries}
    if options.executor == "ray":
        return RayExecutor(**shared, address=options.address, gpus=options.gpus)
    if options.executor == "slurm":
        limit = {} if options.minutes is None else {"minutes": options.minutes}
        place = {"partition": options.partition, "gpus": int(options.gpus), "logs": folder / "slurm"}
        return SlurmExecutor(**shared, **place, **limit)
    return LocalExecutor(**shared)


def steps(point: Point) -> int | None:
    """Steps of a point at most; None if the size of its data is not known."""
    task = point.options.get("task", "even_pairs")
    known = point.command == "pretrain" and tasks.exists(task)
    return steps_at_most(point.configuration, tasks.split_size(task, "train") if known else None)


def _rest(points: Sequence[Point], measured: Sequence[Results], workers: int) -> str:
    """What is left, in words."""
    found = cost(points, steps, measured)
    split = f"; {hours(found.seconds / workers)} hours with workers={workers}" if found.seconds else ""
    return f"left: {found}{split}"


def _write_table(results: Results, path: Path) -> list[Failure]:
    table = results.table()
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    print(f"{len(table)} runs written to {path}")
    return []


def _test_lengths(points: Sequence[Point], folder: Path, results: Results, lengths: Sequence[int]) -> list[Failure]:
    """Test the models that are still in their folders, each length once."""
    accelerator = start(TrainingOptions(), 1)
    known = {(digest_of(line["point"]), line["length"]) for line in results.lengths}
    left = {point.name: [length for length in lengths if (point.digest, length) not in known] for point in points}
    for point, model, of in _models([point for point in points if left[point.name]], folder, "tested"):
        who = model, of["task"], of["attention"], of["seeds"]
        found = evaluate_lengths(accelerator, *who, left[point.name], bool(of.get("pad_as_tokens")))
        results.add_lengths(point, found)
    print(f"results: {results.folder / LENGTHS}")
    return []


def _measure_quantities(points: Sequence[Point], folder: Path, results: Results) -> list[Failure]:
    """Measure the models that are still in their folders, each once."""
    known = {digest_of(line["point"]) for line in results.quantities}
    for point, model, of in _models([point for point in points if point.digest not in known], folder, "measured"):
        found = measure_quantities(model, of["task"], of["seeds"], bool(of.get("pad_as_tokens")))
        results.add_quantities(point, found)
    print(f"results: {results.folder / QUANTITIES}")
    return []


def _models(points: Sequence[Point], folder: Path, verb: str) -> Iterator[tuple[Point, Path, Mapping[str, Any]]]:
    """The best models of points, with their options; says how many there were.

    Raises:
        ValueError: a point is not of a synthetic task, whose rows they are given.
    """
    for point in points:
        if point.command != "pretrain" or not tasks.exists(point.options.get("task", "even_pairs")):
            raise ValueError(
                f"{point.name} is not a pretraining on a synthetic task; expected one to have models {verb}"
            )
    found = {point.name: list(folder.glob(f"*-{point.digest}/runs/*/best")) for point in points}
    there = [point for point in points if len(found[point.name]) == 1]
    for point in there:
        yield point, found[point.name][0], {"task": "even_pairs", **point.options}
    print(f"{len(there)} models {verb}; {len(points) - len(there)} are not in {folder}")


def _training(point: Point, folder: Path) -> list[str]:
    return training_command(point.command, folder, **point.options)
