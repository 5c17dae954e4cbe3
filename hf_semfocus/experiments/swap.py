"""The zero-shot swap: one model, evaluated under other attentions than it was trained with.

A point is a line of ``swap.jsonl``; a swap that was interrupted goes on after the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import Accelerator
from torch import nn

from ..console.display import watched
from ..hf import configure
from ..hf.settings import is_ours
from ..mechanisms import Mechanism, build
from ..metrics import quantities
from ..reports import plots, report
from ..training import ComparisonOptions, MetricsLog, Objective, OutputFolder, Rows, TrainingOptions, evaluate
from ..training.log import read
from ..training.schedules import FocusSchedule
from ..training.setup import where
from .base import Experiment
from .swap_options import DENSE, SwapOptions

if TYPE_CHECKING:
    from evaluate import Metric

Point = dict[str, Any]


def keys_of(attention: str, length: int) -> int | None:
    """The most keys that a query keeps of ``length`` under an attention; None for any number."""
    return (build(attention) if is_ours(attention) else Mechanism()).budget(length)


def evaluate_swapped(
    accelerator: Accelerator,
    model: nn.Module,
    attention: str,
    rows: Rows,
    batch_size: int,
    objective: Objective,
    metrics: Sequence[type[Metric]],
) -> dict[str, float]:
    """Give a prepared model another attention and evaluate it; the rest is as :func:`.evaluate` has it."""
    configure(accelerator.unwrap_model(model), attention)
    return evaluate(accelerator, model, rows, batch_size, objective, metrics)


def swap_checkpoint(
    accelerator: Accelerator,
    experiment: Experiment,
    swap: SwapOptions,
    seed: int,
    output: OutputFolder,
    options: TrainingOptions,
    results: Sequence[Point],
) -> str:
    """Swap the attention of the checkpoint as it is; the paragraph for the report."""
    job = _Swap(accelerator, experiment, swap.names, output, options)
    points = job.evaluate("checkpoint", lambda: experiment.build(DENSE), seed)
    return job.report("The checkpoint as it is, without training", points, results)


def swap_dense_run(
    accelerator: Accelerator,
    experiment: Experiment,
    swap: SwapOptions,
    output: OutputFolder,
    options: TrainingOptions,
    results: Sequence[Point],
) -> str:
    """Swap the attention of every model that was fine-tuned with dense attention; the paragraph for the report."""
    job = _Swap(accelerator, experiment, swap.names, output, options)
    points = []
    for result in results:
        if result["attention"] == DENSE and result["status"] != "diverged":
            load = partial(experiment.load, str(output.run(DENSE, result["seed"]).folder / "last"))
            points += job.evaluate(result["run"], load, result["seed"], result["step"])
    if not points:
        return f"No swap of attentions: every run with {DENSE} diverged."
    return job.report(f"The models fine-tuned with {DENSE}, as they are", points, results)


def swap_only(
    accelerator: Accelerator,
    experiment: Experiment,
    swap: SwapOptions,
    options: TrainingOptions,
    comparison: ComparisonOptions,
    *others: Any,
) -> list[Point]:
    """Swap the attention of the checkpoint, write a report, and train nothing.

    Returns:
        A point per attention, dense first: ``run``, ``attention``, ``seed`` and what ``evaluate`` returned.
    """
    options = replace(options, output_dir=options.output_dir or f"outputs/{experiment.name}-swap")
    options = options.filled(**experiment.defaults)
    output = OutputFolder(accelerator, options, *others, swap, comparison)
    text = swap_checkpoint(accelerator, experiment, swap, comparison.seeds[0], output, options, [])
    accelerator.wait_for_everyone()
    here = where(accelerator)
    points = read(output.path / "swap.jsonl")
    accelerator.end_training()
    if accelerator.is_main_process:
        report.write_markdown(
            output.path, experiment.name, [text, *experiment.notes], output.config, f"Ran on {here}."
        )
        print(text, *experiment.notes, f"written to {output.path}", sep="\n")
    return points


@dataclass(frozen=True)
class _Swap:
    """What all models of a swap share; ``names`` are the attentions, and every process must call the methods."""

    accelerator: Accelerator
    experiment: Experiment
    names: Sequence[str]
    output: OutputFolder
    options: TrainingOptions

    def evaluate(self, run: str, load: Callable[[], nn.Module], seed: int, step: int | None = None) -> list[Point]:
        """Evaluate a model on the held-out rows under every attention, except where ``swap.jsonl`` has the point.

        Args:
            run: name of the model.
            load: returns it.
            seed: of the rows.
            step: number of steps it was trained for; points at other steps are evaluated again.
        """
        accelerator, experiment = self.accelerator, self.experiment
        log = MetricsLog(self.output.path / "swap.jsonl", writes=accelerator.is_main_process)
        here = {"run": run} if step is None else {"run": run, "step": step}
        found = {point["attention"]: point for point in read(log.path) if here.items() <= point.items()}
        accelerator.wait_for_everyone()
        log.rewind(run, len(found))  # drops points at other steps, and an unfinished line
        with accelerator.main_process_first():
            _, rows = experiment.rows(seed)
        model = None
        for name in watched(self.names, f"swap of {run}", accelerator.is_main_process):
            if name in found:
                continue
            if model is None:
                accelerator.free_memory()
                model = accelerator.prepare_model(load(), device_placement=True, evaluation_mode=True)
            how = (self.options.eval_batch_size, experiment.objective, experiment.metrics)
            point = {"run": run, "attention": name, "seed": seed, **here}
            found[name] = log.append({**point, **evaluate_swapped(accelerator, model, name, rows, *how)})
            log.sync()
        return [found[name] for name in self.names]

    def report(self, what: str, points: Sequence[Point], results: Sequence[Point]) -> str:
        """Draw the points, and lay them out as a table, beside the models that were trained with those attentions."""
        metric = plots.swap_metric(points)
        wanted = {_spec(name): name for name in self.names}
        tuned = [
            {"attention": wanted[_spec(result["attention"])], "seed": result["seed"], metric: result.get(metric)}
            for result in results
            if _spec(result["attention"]) in wanted
        ]
        scores = {(result["attention"], result["seed"]): result[metric] for result in tuned}
        if results:
            points = [{**point, "tuned": scores.get((point["attention"], point["seed"]))} for point in points]
        text = f"{what}, evaluated on the held-out data under each attention:\n\n{report.table(points)}"
        if results:
            label = quantities()[metric].label
            text += f'\n\n"fine-tuned with it" is the {label} of the model trained with that attention.'
        if not self.accelerator.is_main_process:
            return text
        length = _longest(self.experiment, points[-1]["seed"])
        keys = {name: keys_of(name, length) for name in self.names}
        try:
            plots.swap(points, tuned, keys, self.output.path / "swap.png", what)
        except ImportError as error:
            return f"{text}\n\nno swap.png: {error}"
        return f"{text}\n\n![{what}](swap.png)"


def _longest(experiment: Experiment, seed: int) -> int:
    """Tokens of the longest held-out row."""
    _, rows = experiment.rows(seed)
    everything = np.arange(len(rows))
    return rows.batch(everything[:1], everything)["input_ids"].shape[1]


def _spec(attention: str) -> str:
    """One spelling for attentions that are the same."""
    return build(attention).spec if is_ours(attention) and FocusSchedule.parse(attention).is_constant else attention
