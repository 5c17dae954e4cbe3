"""Fine-tune a checkpoint with different attentions, and compare the results.

    semfocus finetune --model CHECKPOINT --dataset reviews.csv --attention sdpa topk_sparse:k=8
    semfocus finetune --model CHECKPOINT --dataset reviews.csv --peft lora --lora_r 16
    semfocus finetune --task token --model CHECKPOINT --dataset names.jsonl
    semfocus finetune --task clm --model CHECKPOINT --dataset book.txt --swap topk_sparse --swap_only

For one seed, every attention gets the same examples, initial weights and batches. Results are in ``--output_dir``:
``report.md``, ``curves.png``, ``metrics.jsonl``, the models or adapters under ``runs/``, and with ``--swap`` the
scores of the dense model under other attentions, without training: ``swap.png``, ``swap.jsonl``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from .. import kinds
from ..console import check_unset, option, parse
from ..experiments import (
    Examples,
    Experiment,
    HubOptions,
    LoraOptions,
    SwapOptions,
    Text,
    checkpoint,
    compare,
    labeled,
    language,
    swap_checkpoint,
    swap_dense_run,
    swap_only,
    title,
    with_lora,
)
from ..experiments.adapted import LEARNING_RATE as LORA_RATE
from ..experiments.labeled import ATTENTIONS, DEFAULTS, ROWS
from ..experiments.swap_options import DENSE
from ..training import ComparisonOptions, TrainingOptions, start, stated
from .points import check_single

CLM = {**DEFAULTS, "eval_batch_size": 16, "best_by": "loss"}
"""Options of fine-tuning a language model, whose logits are large."""
TASKS = [kinds.get(name).task for name in (*ROWS, "causal_lm")]


@dataclass
class FinetuneOptions:
    """Task and checkpoint."""

    task: str = option("sequence", "sequence (a class per text), token (a class per word) or clm (next token)")
    model: str | None = option(None, "the checkpoint: a folder, or a name on the Hub")
    block_size: int | None = option(None, "clm: tokens of a row; 256 by default")
    sample_by: Literal["document", "paragraph", "line"] | None = option(None, "clm: what a document is in a .txt file")

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task={self.task!r}; expected one of {', '.join(TASKS)}")
        if self.model is None:
            raise ValueError("model=None; expected a file or folder, or a name on the Hub")


OPTIONS = (FinetuneOptions, Examples, LoraOptions, SwapOptions, ComparisonOptions, TrainingOptions, HubOptions)


def main(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Fine-tune with every attention and seed, write the report, and return the results of the runs."""
    options, examples, lora, swap, comparison, training, hub = parse(*OPTIONS, args=args, about=__doc__)
    check_applies(options, examples)
    check_swap(options, lora, swap, comparison, training, hub)
    accelerator = start(training, comparison.cpu_threads)
    experiment = plain = make_experiment(accelerator, options, examples)
    if lora.peft:
        experiment = with_lora(plain, lora)
    if swap.swap_only:
        return swap_only(accelerator, plain, swap, training, comparison, options, examples)
    after = None
    if swap.swap and options.task == "clm":
        after = partial(swap_checkpoint, accelerator, plain, swap, comparison.seeds[0])
    elif swap.swap:
        after = partial(swap_dense_run, accelerator, experiment, swap)
    kept = (options, examples, lora, swap)
    return compare(accelerator, experiment, training, comparison, hub, *kept, command="finetune", after=after)


def configuration(args: Sequence[str]) -> dict[str, Any]:
    """The configuration of a single run: the options that differ from their general defaults.

    Raises:
        ValueError: what :func:`main` would refuse before it reads a model or data, a swap, or not exactly one
            attention and one seed.
    """
    options, examples, lora, swap, comparison, training, _ = parse(*OPTIONS, args=args)
    check_applies(options, examples)
    check_unset(swap, ("swap", "swap_k", "swap_only"), "on a point of a grid")
    check_single(comparison)
    defaults = {**(DEFAULTS if options.task != "clm" else CLM), **({"learning_rate": LORA_RATE} if lora.peft else {})}
    return stated(options, examples, lora, comparison, training.filled(**defaults))


def make_experiment(accelerator: Any, options: FinetuneOptions, examples: Examples) -> Experiment:
    """The experiment without the attention, in which all weights are trained."""
    if options.task != "clm":
        return labeled(accelerator, options.task, options.model, examples)
    checkpoint(options.model)
    given = {
        "validation_fraction": examples.validation_fraction,
        "sample_by": options.sample_by,
        "block_size": options.block_size,
    }
    text = Text(
        examples.dataset,
        examples.dataset_config,
        next(iter(examples.text_columns), None),
        tokenizer=examples.tokenizer,
        **{name: value for name, value in given.items() if value is not None},
    )
    sizes = {"train_size": examples.train_size, "eval_size": examples.eval_size}
    return replace(
        language(accelerator, "clm", text, options.model, **sizes),
        name=title("clm", examples.dataset, options.model),
        defaults=CLM,
        attentions=ATTENTIONS,
    )


def check_applies(options: FinetuneOptions, examples: Examples) -> None:
    """Refuse options that do not apply to the task.

    Raises:
        ValueError: names the option.
    """
    for part, name, of_clm in (
        (examples, "label_column", False),
        (examples, "max_length", False),
        (options, "block_size", True),
        (options, "sample_by", True),
    ):
        if (value := getattr(part, name)) is not None and of_clm != (options.task == "clm"):
            raise ValueError(f"{name}={value!r} does not apply to task={options.task!r}")
    if options.task == "clm" and len(examples.text_columns) > 1:
        raise ValueError(f"text_columns={examples.text_columns!r}; expected one for task='clm'")


def check_swap(
    options: FinetuneOptions,
    lora: LoraOptions,
    swap: SwapOptions,
    comparison: ComparisonOptions,
    training: TrainingOptions,
    hub: HubOptions,
) -> None:
    """Refuse ``--swap`` without a dense run, and options that do not apply to ``--swap_only``.

    Raises:
        ValueError: names the option.
    """
    if options.task != "clm" and swap.swap_only:
        raise ValueError(f"swap_only=True, but the head for task={options.task!r} is new; expected task='clm'")
    if options.task != "clm" and swap.swap and DENSE not in (comparison.attention or ATTENTIONS):
        raise ValueError(f"attention={comparison.attention!r}; expected {DENSE} among them, as swap needs its model")
    if swap.swap_only:
        why = "with swap_only=True, which trains nothing"
        check_unset(comparison, ("attention",), why)
        check_unset(lora, ("peft",), why)
        check_unset(training, ("report_to",), why)
        check_unset(hub, ("push_to_hub",), why)
        if len(comparison.seeds) > 1:
            raise ValueError(f"seeds={comparison.seeds!r}; expected one {why}")
