"""Fine-tune a checkpoint, the same but for its attention, and see what the attention costs or gains.

    semfocus finetune --model CHECKPOINT --dataset reviews.csv --attention sdpa topk_sparse:k=8
    semfocus finetune --model CHECKPOINT --dataset reviews.csv --peft lora --lora_r 16
    semfocus finetune --task token --model CHECKPOINT --dataset names.jsonl
    semfocus finetune --task clm --model CHECKPOINT --dataset book.txt --swap topk_sparse \
        --swap_k 4 16 64 --swap_only

For one seed, every attention gets the same examples, the same initial weights and the same batches. What comes out
is in ``--output_dir``: ``report.md``, ``curves.png``, ``metrics.jsonl``, the models or adapters under ``runs/``, and
with ``--swap`` what another attention does to the dense model as it is: ``swap.png``, ``swap.jsonl``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from .. import kinds
from ..console import check_at_least, check_unset, option, parse
from ..experiments import (
    Examples,
    Experiment,
    HubOptions,
    LoraOptions,
    SwapOptions,
    Text,
    checkpoint,
    compare,
    labelled,
    language,
    swap_checkpoint,
    swap_dense_run,
    swap_only,
    title,
    with_lora,
)
from ..experiments.labelled import ATTENTIONS, DEFAULTS, ROWS
from ..experiments.swap import DENSE
from ..training import ComparisonOptions, TrainingOptions, start

TASKS = [kinds.get(name).task for name in (*ROWS, "causal_lm")]


@dataclass
class FinetuneOptions:
    """What to fine-tune on what."""

    task: str = option("sequence", "sequence (a class per text), token (a class per word) or clm (next token)")
    model: str | None = option(None, "the checkpoint: a folder, or a name on the Hub")
    dataset: str | None = option(None, "a file or folder (.json, .csv, .parquet; clm: also .txt), or a Hub name")
    dataset_config: str | None = option(None, "configuration of a data set on the Hub")
    text_columns: list[str] = option([], "column of the text, two for pairs; found by name by default")  # noqa: RUF009
    label_column: str | None = option(None, "column of the classes; found by name by default")
    validation_fraction: float | None = option(None, "share held out where there is no validation split")
    tokenizer: str | None = option(None, "folder or Hub name; the checkpoint's by default")
    max_length: int | None = option(None, "cut texts to this many tokens; by default one that is too long is an error")
    block_size: int | None = option(None, "clm: tokens of a row; 256 by default")
    sample_by: Literal["document", "paragraph", "line"] | None = option(None, "clm: what a document is in a .txt file")
    train_size: int | None = option(None, "training examples (clm: rows) at most")
    eval_size: int | None = option(None, "held-out examples (clm: rows) at most")

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task={self.task!r}; expected one of {', '.join(TASKS)}")
        for name in ("model", "dataset"):
            if getattr(self, name) is None:
                raise ValueError(f"{name}=None; expected a file or folder, or a name on the Hub")
        others = ("label_column", "max_length") if self.task == "clm" else ("block_size", "sample_by")
        for name in others:
            if getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r} does not apply to task={self.task!r}")
        if self.task == "clm" and len(self.text_columns) > 1:
            raise ValueError(f"text_columns={self.text_columns!r}; expected one for task='clm'")
        for name in ("train_size", "eval_size"):
            check_at_least(name, getattr(self, name), 1)


OPTIONS = (FinetuneOptions, LoraOptions, SwapOptions, ComparisonOptions, TrainingOptions, HubOptions)


def main(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Fine-tune with every attention and seed, write the report, and return the results of the runs."""
    options, lora, swap, comparison, training, hub = parse(*OPTIONS, args=args, about=__doc__)
    check_swap(options, lora, swap, comparison, training, hub)
    accelerator = start(training, comparison.cpu_threads)
    experiment = plain = make_experiment(accelerator, options)
    if lora.peft:
        experiment = with_lora(plain, lora)
    if swap.swap_only:
        return swap_only(accelerator, plain, swap, training, comparison, options)
    after = None
    if swap.swap and options.task == "clm":
        after = partial(swap_checkpoint, accelerator, plain, swap, comparison.seeds[0])
    elif swap.swap:
        after = partial(swap_dense_run, accelerator, experiment, swap)
    return compare(
        accelerator, experiment, training, comparison, hub, options, lora, swap, command="finetune", after=after
    )


def make_experiment(accelerator: Any, options: FinetuneOptions) -> Experiment:
    """Everything of the comparison but the attention, with all weights to be trained."""
    shared = {"dataset": options.dataset, "config": options.dataset_config, "tokenizer": options.tokenizer}
    shared |= {"train_size": options.train_size, "eval_size": options.eval_size}
    if options.validation_fraction is not None:
        shared["validation_fraction"] = options.validation_fraction
    if options.task != "clm":
        columns = {"text_columns": options.text_columns or None, "label_column": options.label_column}
        examples = Examples(**shared, **columns, max_length=options.max_length)
        return labelled(accelerator, options.task, options.model, examples)
    checkpoint(options.model)
    text = Text(
        **shared,
        text_column=next(iter(options.text_columns), None),
        sample_by=options.sample_by or "document",
        block_size=256 if options.block_size is None else options.block_size,
    )
    return replace(
        language(accelerator, "clm", text, options.model),
        name=title("clm", options.dataset, options.model),
        defaults={**DEFAULTS, "eval_batch_size": 16, "best_by": "loss"},  # of logits there are many
        attentions=ATTENTIONS,
    )


def check_swap(
    options: FinetuneOptions,
    lora: LoraOptions,
    swap: SwapOptions,
    comparison: ComparisonOptions,
    training: TrainingOptions,
    hub: HubOptions,
) -> None:
    """Refuse a swap of a model that there will not be.

    Raises:
        ValueError: names the option.
    """
    if options.task != "clm" and swap.swap_only:
        raise ValueError(f"swap_only=True, but the head for task={options.task!r} is new; expected task='clm'")
    if options.task != "clm" and swap.swap and DENSE not in (comparison.attention or ATTENTIONS):
        raise ValueError(f"attention={comparison.attention!r}; expected {DENSE} among them, whose model swap is of")
    if swap.swap_only:
        why = "with swap_only=True, which trains nothing"
        check_unset(comparison, ("attention",), why)
        check_unset(lora, ("peft",), why)
        check_unset(training, ("report_to",), why)
        check_unset(hub, ("push_to_hub",), why)
        if len(comparison.seeds) > 1:
            raise ValueError(f"seeds={comparison.seeds!r}; expected one {why}")
