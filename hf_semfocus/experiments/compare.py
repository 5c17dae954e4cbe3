"""The comparison: one run per attention and seed, on the same data, from the same weights, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from ..backends.lists.native.build import load as load_kernels
from ..data.batches import steps_per_epoch
from ..files import check_space, locked
from ..hf.settings import is_ours
from ..reports import report
from ..training import (
    ComparisonOptions,
    FocusSchedule,
    OutputFolder,
    Rows,
    Run,
    TrainingOptions,
    train,
)
from ..training.output import LOCK
from ..training.run import ended
from ..training.saving import bytes_needed
from ..training.schedules import check_course
from ..training.setup import start_tracking
from .base import Experiment
from .publishing import HubOptions, check_publishing, publish_run
from .workers import number_of_workers, train_side_by_side


def compare(
    accelerator: Accelerator,
    experiment: Experiment,
    options: TrainingOptions,
    comparison: ComparisonOptions,
    hub: HubOptions | None = None,
    *others: Any,
    command: str | None = None,
    after: Callable[[OutputFolder, TrainingOptions, list[dict[str, Any]]], str] | None = None,
) -> list[dict[str, Any]]:
    """Train every attention with every seed, write the report, and publish if asked to.

    Args:
        accelerator: of Accelerate.
        experiment: what is trained on what.
        options: how; the experiment fills in what is None.
        comparison: attentions and seeds; the experiment's own attentions if there are none.
        hub: whether and where to publish.
        *others: the recipe's other dataclasses of options, to be kept beside the results.
        command: of :mod:`hf_semfocus.cli` that makes the same experiment of the same options; without one, no runs
            go side by side.
        after: what every process does once all runs are done, from the output folder, the options in force and the
            results to a paragraph for the report.

    Returns:
        What :func:`train` returned, a run after another.

    Raises:
        ValueError: anything that would keep a run from working, before any of them starts.
    """
    comparison = replace(comparison, attention=list(comparison.attention or experiment.attentions))
    attentions, seeds = comparison.attention, comparison.seeds
    options = replace(options, output_dir=options.output_dir or f"outputs/{experiment.name}")
    options = options.filled(**experiment.defaults)
    hub = hub or HubOptions()
    check_publishing(hub, attentions)
    for attention in attentions:  # a name that does not work ends it here
        schedule = FocusSchedule.parse(attention)
        for name in schedule.names:
            model = experiment.build(name)
        if schedule.by_layer:
            for each in schedule.attentions:
                schedule.switch(model, each)
    parameters = sum(p.numel() for p in model.parameters())
    workers = number_of_workers(accelerator, options, comparison, parameters, command)
    space = bytes_needed(model, options, len(attentions) * len(seeds))
    del model
    if comparison.part:
        return _part(accelerator, experiment, options, comparison)
    check_space(options.output_dir, space)
    first_rows = _rows(accelerator, experiment, seeds[0])
    check_course(options, len(first_rows[0]), attentions)
    output = OutputFolder(accelerator, options, *others, comparison)
    start_tracking(accelerator, options, output.config)
    names = [name for attention in attentions for name in FocusSchedule.parse(attention).names]
    if accelerator.device.type == "cpu" and any(map(is_ours, names)):
        load_kernels()  # compile now, not in a run's first step

    which = [(attention, seed) for seed in seeds for attention in attentions]
    runs = [output.run(*run, number, len(which)) for number, run in enumerate(which, start=1)]
    if workers > 1:
        length = steps_per_epoch(len(first_rows[0]), options.batch_size)
        left = [run for run in runs if ended(run, options, length) is None]
        train_side_by_side(command, output, runs, left, workers, options.save_steps)
    results = _train_all(accelerator, experiment, options, output, runs, first_rows, reported=workers > 1)
    notes = list(experiment.notes)
    if after is not None:
        notes.append(after(output, options, results))
    notes += _back_ends(results)
    if accelerator.is_main_process:
        records = output.gather(runs)
        print(report.write_report(output.path, experiment.name, results, records, output.config, notes))
        if hub.push_to_hub:
            print(publish_run(hub, experiment, output, results))
    accelerator.wait_for_everyone()  # or a process that ends early takes the others' connection with it
    accelerator.end_training()
    return results


def _train_all(
    accelerator: Accelerator,
    experiment: Experiment,
    options: TrainingOptions,
    output: OutputFolder,
    runs: Sequence[Run],
    first_rows: tuple[Rows, Rows],
    reported: bool,
) -> list[dict[str, Any]]:
    """Train one run after another; finished ones give their results at once.

    Args:
        first_rows: of the first run's seed.
        reported: whether the runs have ended side by side, which reported of them and put their records together.
    """
    rows = {runs[0].seed: first_rows}
    results = []
    for run in runs:
        if run.seed not in rows:
            rows = {run.seed: _rows(accelerator, experiment, run.seed)}
        try:
            results.append(_train(accelerator, experiment, options, run, *rows[run.seed]))
        finally:  # also of a run that is stopped
            if accelerator.is_main_process and not reported:
                with suppress(OSError, ValueError):  # of which the run has reported, or the report will
                    output.gather(runs)
        if not reported:
            accelerator.print(f"{run.name}: {results[-1]['status']}", flush=True)
    return results


def _back_ends(results: Sequence[dict[str, Any]]) -> list[str]:
    """A note on what computed the mechanisms, if any run says so."""
    found = {f"{name} by {', '.join(by)}" for result in results for name, by in result.get("back_ends", {}).items()}
    return [f"Attention was computed by these backends: {'; '.join(sorted(found))}."] if found else []


def _part(
    accelerator: Accelerator, experiment: Experiment, options: TrainingOptions, comparison: ComparisonOptions
) -> list[dict[str, Any]]:
    """Train the only run, in the output folder that another process holds."""
    [attention], [seed] = comparison.attention, comparison.seeds
    number, of = map(int, comparison.part.split("/"))
    run = replace(OutputFolder.run_in(Path(options.output_dir), attention, seed), number=number, of=of, alone=False)
    run.folder.mkdir(parents=True, exist_ok=True)
    with closing(locked(run.folder / LOCK)):
        return [_train(accelerator, experiment, options, run, *_rows(accelerator, experiment, seed))]


def _train(
    accelerator: Accelerator,
    experiment: Experiment,
    options: TrainingOptions,
    run: Run,
    train_rows: Rows,
    eval_rows: Rows,
) -> dict[str, Any]:
    """Train a run from the initial weights of its seed; a finished one gives its result at once."""
    set_seed(run.seed)
    model = experiment.build(FocusSchedule.parse(run.attention).names[0])
    return train(
        accelerator,
        model,
        options,
        run,
        train_rows=train_rows,
        eval_rows=eval_rows,
        objective=experiment.objective,
        metrics=experiment.metrics,
        tokenizer=experiment.tokenizer,
    )


def _rows(accelerator: Accelerator, experiment: Experiment, seed: int) -> tuple[Rows, Rows]:
    with accelerator.main_process_first():
        return experiment.rows(seed)
