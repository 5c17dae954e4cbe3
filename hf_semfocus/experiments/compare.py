"""The comparison: one run per attention and seed, on the same data, from the same weights, in the same order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from .. import report
from ..backends.native.build import load as load_kernels
from ..hf import observe
from ..hf.settings import is_ours
from ..training import ComparisonOptions, FocusSchedule, OutputFolder, Rows, TrainingOptions, train
from ..training.files import check_space
from ..training.log import read
from ..training.setup import start_tracking
from ..training.steps import check_course
from .base import Experiment
from .publishing import HubOptions, check_publishing, publish


def compare(
    accelerator: Accelerator,
    experiment: Experiment,
    options: TrainingOptions,
    comparison: ComparisonOptions,
    hub: HubOptions | None = None,
    *others: Any,
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
        for name in FocusSchedule.parse(attention).names:
            model = experiment.build(name)
    check_space(options.output_dir, _bytes_needed(model, options, len(attentions) * len(seeds)))
    del model
    first_rows = _rows(accelerator, experiment, seeds[0])
    check_course(options, len(first_rows[0]), attentions)
    output = OutputFolder(accelerator, options, *others, comparison)
    start_tracking(accelerator, options, output.config)
    names = [name for attention in attentions for name in FocusSchedule.parse(attention).names]
    if accelerator.device.type == "cpu" and any(map(is_ours, names)):
        load_kernels()  # compile now, not in a run's first step

    results = []
    for seed in seeds:
        train_rows, eval_rows = first_rows if seed == seeds[0] else _rows(accelerator, experiment, seed)
        for attention in attentions:
            run = output.run(attention, seed, len(results) + 1, len(seeds) * len(attentions))
            set_seed(seed)
            model = experiment.build(FocusSchedule.parse(attention).names[0])
            result = train(
                accelerator,
                model,
                train_rows,
                eval_rows,
                options,
                run,
                output.log,
                experiment.objective,
                experiment.metrics,
                experiment.tokenizer,
            )
            results.append(result)
            accelerator.print(f"{run.name}: {result['status']}", flush=True)
    notes = list(experiment.notes)
    if after is not None:
        notes.append(after(output, options, results))
    if computed := observe.ran():
        notes.append(f"Attention was computed by these back ends: {computed}.")
    if accelerator.is_main_process:
        records = read(output.log.path)
        print(report.publish(output.path, experiment.name, results, records, output.config, notes))
        if hub.push_to_hub:
            print(publish(hub, experiment, output, results))
    accelerator.wait_for_everyone()  # or a process that ends early takes the others' connection with it
    accelerator.end_training()
    return results


def _rows(accelerator: Accelerator, experiment: Experiment, seed: int) -> tuple[Rows, Rows]:
    with accelerator.main_process_first():
        return experiment.rows(seed)


def _bytes_needed(model: torch.nn.Module, options: TrainingOptions, runs: int) -> int:
    """Bytes that the models (or adapters) and the last checkpoints of all runs take, and two more of one, at most."""
    whole = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    checkpoint = whole + (2 * trained if options.optimizer == "adamw" else 0)
    saved = trained if hasattr(model, "peft_config") else whole
    return 2 * runs * saved + (runs + 2) * checkpoint
