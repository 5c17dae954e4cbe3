"""The runs of a comparison side by side, each in a process that trains it as a part of the same output folder."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import Accelerator

from ..grid import Job, LocalExecutor, training_command
from ..machine import cores
from ..training import ComparisonOptions, OutputFolder, Run, TrainingOptions

SMALL = 10_000_000
"""Parameters up to which a second thread does less for a run than for a run of its own."""


def number_of_workers(
    accelerator: Accelerator,
    options: TrainingOptions,
    comparison: ComparisonOptions,
    parameters: int,
    command: str | None,
) -> int:
    """How many runs go side by side: what is asked for, or one per core where that is faster.

    Args:
        accelerator: of Accelerate.
        options: of the training.
        comparison: ``workers``, if it is set.
        parameters: of the model.
        command: that makes the experiment in another process; None if there is none.

    Raises:
        ValueError: several are asked for where each run takes several processes, where a tracker writes, or where no
            command makes the experiment.
    """
    alone = accelerator.num_processes == 1 and options.report_to == "none"
    if comparison.workers is not None:
        if comparison.workers > 1 and not alone:
            raise ValueError(
                f"workers={comparison.workers} with {accelerator.num_processes} processes and "
                f"report_to={options.report_to!r}; runs side by side take one process each and no tracker"
            )
        if comparison.workers > 1 and command is None:
            raise ValueError(f"workers={comparison.workers} for an experiment that no command makes; expected 1")
        return comparison.workers
    if command is None or not alone or accelerator.device.type != "cpu":
        return 1
    if comparison.cpu_threads or parameters > SMALL:
        return 1
    return min(cores(), len(comparison.attention) * len(comparison.seeds))


def train_side_by_side(
    command: str, output: OutputFolder, runs: Sequence[Run], left: Sequence[Run], workers: int, save_steps: int | None
) -> None:
    """Train the runs that are left, several at a time, and keep the records of all together meanwhile.

    Args:
        command: of :mod:`hf_semfocus.cli`, whose options are in the output folder.
        output: of the comparison.
        runs: of it.
        left: those that are not finished.
        workers: processes at a time.
        save_steps: of the training, which the output folder does not keep.

    Raises:
        RuntimeError: a run failed twice; says what its process said last.
        SystemExit: after SIGTERM or Ctrl-C, once all have saved their state.
    """

    def job(run: Run) -> Job:
        training = training_command(
            command,
            output.path,
            config=output.path / "config.yaml",
            save_steps=save_steps,
            attention=run.attention,
            seeds=run.seed,
            part=f"{run.number}/{run.of}",
        )
        return Job(run.name, training, run.log, run.folder / "output.txt", run.result)

    executor = LocalExecutor(
        workers=workers,
        done_before=len(runs) - len(left),
        on_records=lambda: output.gather(runs),
        relay="run ",
        resumed_by="--resume",
    )
    failures = executor.run([job(run) for run in left])
    if failures:
        told = "; ".join(f"{failure.name} (status {failure.status}): {failure.last_lines}" for failure in failures)
        raise RuntimeError(f"{len(failures)} of {len(left)} runs failed, and --resume tries again: {told}")
