"""The zero-shot swap: one model, evaluated under other attentions than it was trained with.

A point is a line of ``swap.jsonl``; a swap that was interrupted goes on after the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import nn

from ..console import check_at_least, option
from ..console.display import watched
from ..hf import configure
from ..hf.settings import is_ours
from ..mechanisms import Mechanism, build, parameters, parse
from ..mechanisms import get as mechanism_of
from ..metrics import quantities
from ..reports import plots, report
from ..training import (
    ComparisonOptions,
    MetricsLog,
    OutputFolder,
    TrainingOptions,
    evaluate,
)
from ..training.log import read
from ..training.setup import where
from .base import Experiment

DENSE = "sdpa"
Point = dict[str, Any]


@dataclass
class SwapOptions:
    """Under which attentions a model is evaluated that was trained with another.

    Raises:
        ValueError: a name or a value that does not work.
    """

    swap: list[str] = option(  # noqa: RUF009
        [], "attentions that the dense model is evaluated with, as it is: the checkpoint (clm), or the fine-tuned one"
    )
    swap_k: list[int] = option([], "values of k (or window, block_size) for names of swap that state nothing")  # noqa: RUF009
    swap_only: bool = option(False, "train nothing; for clm, whose checkpoints need no new head")

    def __post_init__(self) -> None:
        for k in self.swap_k:
            check_at_least("swap_k", k, 1)
        for name in ("swap_k", "swap_only"):
            if getattr(self, name) and not self.swap:
                raise ValueError(f"{name}={getattr(self, name)!r} is for a swap; expected attentions as swap with it")
        names = self.names
        for name in names[1:]:
            build(name)
        if len(set(names)) < len(names):
            raise ValueError(f"swap={self.swap!r}, swap_k={self.swap_k!r}; expected every attention once")
        if self.swap_k and not any(_size_of(name) for name in self.swap):
            raise ValueError(f"swap_k={self.swap_k!r} applies to none of swap={self.swap!r}; expected one without ':'")

    @property
    def names(self) -> list[str]:
        """Every attention to evaluate with, dense first."""
        names = [DENSE]
        for name in self.swap:
            size = _size_of(name) if self.swap_k else None
            names += [f"{name}:{size}={k}" for k in self.swap_k] if size else [name]
        return names


def keys_of(attention: str, length: int) -> int | None:
    """The most keys that a query keeps of ``length`` under an attention; None for any number."""
    return (build(attention) if is_ours(attention) else Mechanism()).budget(length)


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
    models = {"checkpoint": lambda: experiment.build(DENSE)}
    points = evaluate_under(accelerator, experiment, swap.names, models, seed, output, options)
    what = "The checkpoint as it is, without training"
    return _publish(accelerator, what, swap, points, output, results, _longest(experiment, seed))


def swap_dense_run(
    accelerator: Accelerator,
    experiment: Experiment,
    swap: SwapOptions,
    output: OutputFolder,
    options: TrainingOptions,
    results: Sequence[Point],
) -> str:
    """Swap the attention of every model that was fine-tuned with dense attention; the paragraph for the report."""
    points = []
    for result in results:
        if result["attention"] == DENSE and result["status"] != "diverged":
            folder = output.run(DENSE, result["seed"]).folder / "last"
            models = {result["run"]: lambda folder=folder: experiment.load(str(folder))}
            seed, step = result["seed"], result["step"]
            points += evaluate_under(accelerator, experiment, swap.names, models, seed, output, options, step)
    if not points:
        return f"No swap of attentions: every run with {DENSE} diverged."
    what = f"The models fine-tuned with {DENSE}, as they are"
    return _publish(accelerator, what, swap, points, output, results, _longest(experiment, seed))


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
    seed = comparison.seeds[0]
    text = swap_checkpoint(accelerator, experiment, swap, seed, output, options, [])
    accelerator.wait_for_everyone()
    here = where(accelerator)
    points = read(output.path / "swap.jsonl")
    accelerator.end_training()
    if accelerator.is_main_process:
        report.write(output.path, experiment.name, [text, *experiment.notes], output.config, f"Ran on {here}.")
        print(text, *experiment.notes, f"written to {output.path}", sep="\n")
    return points


def evaluate_under(
    accelerator: Accelerator,
    experiment: Experiment,
    names: Sequence[str],
    models: dict[str, Callable[[], nn.Module]],
    seed: int,
    output: OutputFolder,
    options: TrainingOptions,
    step: int | None = None,
) -> list[Point]:
    """Evaluate models on the held-out rows under every attention, but for points that ``swap.jsonl`` has already.

    Args:
        accelerator: every process must call this.
        experiment: whose rows, objective and metrics.
        names: attentions.
        models: by name, what loads them.
        seed: of the rows.
        output: of the recipe.
        options: filled.
        step: how far the models were trained; points of models that have been trained further are made anew.

    Returns:
        A point for every model and attention.
    """
    log = MetricsLog(output.path / "swap.jsonl", writes=accelerator.is_main_process)
    found = {(point["run"], point["attention"]): point for point in read(log.path)}
    accelerator.wait_for_everyone()
    with accelerator.main_process_first():
        _, rows = experiment.rows(seed)
    points = []
    stage = {} if step is None else {"step": step}
    for run, load in models.items():
        if any(key[0] == run and point.get("step") != step for key, point in found.items()):
            found = {key: point for key, point in found.items() if key[0] != run}
        log.rewind(run, sum(key[0] == run for key in found))  # drops a line that was not finished
        model = None
        for name in watched(names, f"swap of {run}", accelerator.is_main_process):
            if (run, name) not in found:
                if model is None:
                    accelerator.free_memory()
                    model = accelerator.prepare_model(load(), device_placement=True, evaluation_mode=True)
                configure(accelerator.unwrap_model(model), name)
                held_out = evaluate(
                    accelerator, model, rows, options.eval_batch_size, experiment.objective, experiment.metrics
                )
                found[run, name] = log.append({"run": run, "attention": name, "seed": seed, **stage, **held_out})
                log.sync()
            points.append(found[run, name])
    return points


def _publish(
    accelerator: Accelerator,
    what: str,
    swap: SwapOptions,
    points: Sequence[Point],
    output: OutputFolder,
    results: Sequence[Point],
    length: int,
) -> str:
    """Draw the points, and lay them out as a table, with the models that were fine-tuned with those attentions."""
    metric = plots.swap_metric(points)
    wanted = {_spec(name): name for name in swap.names}
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
        text += (
            f'\n\n"fine-tuned with it" is the {quantities()[metric].label} of the model trained with that attention.'
        )
    if not accelerator.is_main_process:
        return text
    keys = {name: keys_of(name, length) for name in wanted.values()}
    try:
        plots.swap(points, tuned, keys, output.path / "swap.png", what)
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
    return build(attention).spec if is_ours(attention) and ">" not in attention else attention


def _size_of(name: str) -> str | None:
    """The parameter of an attention that ``swap_k`` sets; None if it has none, or states some itself."""
    if ":" in name:
        return None
    mechanism = mechanism_of(parse(name)[0])
    return mechanism.sized_by if mechanism.sized_by in parameters(mechanism) else None
