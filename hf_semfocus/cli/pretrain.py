"""Train models from scratch that differ only in their attention, and compare how fast they learn.

    semfocus pretrain
    semfocus pretrain --config options.yaml
    semfocus pretrain --task parity --attention sdpa topk_sparse:k=5 --seeds 1 2 3
    semfocus pretrain --task clm --model llama --dataset embedded

For one seed, every attention gets the same examples, initial weights and batches. Results are in
``--output_dir``: ``report.md``, ``curves.png``, ``metrics.jsonl``, and the models under ``runs/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..console import check_at_least, check_unset, option, parse
from ..experiments import HubOptions, Text, compare, language, synthetic
from ..experiments.language import DEFAULTS
from ..models import PRESETS, checkpoint_config
from ..training import (
    ComparisonOptions,
    TrainingOptions,
    start,
    stated,
)
from .points import check_single


@dataclass
class PretrainOptions:
    """Task and model; sizes default to the paper's for its tasks, and to a small language model for text."""

    task: str = option("even_pairs", "clm or mlm (a language model on text), or the name of a synthetic task")
    model: str | None = option(
        None, "paper, gpt2, bert or llama (small, from scratch), or a checkpoint; the task's by default"
    )
    train_size: int | None = option(None, "training examples, or rows of text; the task's by default, or all")
    eval_size: int | None = option(None, "held-out examples, or rows of text; 2000 by default, or all")
    pad_as_tokens: bool = option(False, "treat padding as tokens, as the paper's code does")
    hidden_size: int | None = option(None, "width of a token")
    intermediate_size: int | None = option(None, "width of the MLP's hidden layer")
    num_layers: int | None = option(None, "number of blocks; the task's by default")
    num_heads: int | None = option(None, "number of attention heads")
    activation: str | None = option(None, "activation of the MLP")
    dropout: float | None = option(None, "probability of dropout")

    def __post_init__(self) -> None:
        for name in ("train_size", "eval_size", "num_layers"):
            check_at_least(name, getattr(self, name), 1)


LANGUAGE = ("clm", "mlm")
SIZES = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "activation", "dropout")
OPTIONS = (PretrainOptions, Text, ComparisonOptions, TrainingOptions, HubOptions)


def main(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Train every attention with every seed, write the report, and return the results of the runs."""
    options, text, comparison, training, hub = parse(*OPTIONS, args=args, about=__doc__)
    check_applies(options, text)
    accelerator = start(training, comparison.cpu_threads)
    sizes = {name: getattr(options, name) for name in SIZES}
    if options.task in LANGUAGE:
        experiment = language(
            accelerator, options.task, text, options.model, sizes, options.train_size, options.eval_size
        )
    else:
        experiment = synthetic(
            options.task, options.model, sizes, options.train_size, options.eval_size, options.pad_as_tokens
        )
    return compare(accelerator, experiment, training, comparison, hub, options, text, command="pretrain")


def configuration(args: Sequence[str]) -> dict[str, Any]:
    """The configuration of a single run: the options that differ from their general defaults.

    Raises:
        ValueError: what :func:`main` would refuse, or not exactly one attention and one seed.
    """
    options, text, comparison, training, _ = parse(*OPTIONS, args=args)
    check_applies(options, text)
    check_single(comparison)
    defaults = DEFAULTS if options.task in LANGUAGE else synthetic(options.task, options.model).defaults
    return stated(options, text, comparison, training.filled(**defaults))


def check_applies(options: PretrainOptions, text: Text) -> None:
    """Refuse options that do not apply to the task or the model.

    Raises:
        ValueError: names the option.
    """
    checkpoint = options.model is not None and options.model not in PRESETS
    if checkpoint:
        checkpoint_config(options.model, presets=PRESETS)  # raises if there is no such model
        check_unset(options, SIZES, f"on a checkpoint, model={options.model!r}")
    if options.task in LANGUAGE:
        check_unset(options, ("pad_as_tokens",), f"on task={options.task!r}")
    else:
        check_unset(
            text, [field.name for field in fields(text)], f"on task={options.task!r}, which makes its own data"
        )
    if checkpoint or text.tokenizer:
        check_unset(text, ("vocab_size", "tokenizer_documents"), "on a tokenizer that is trained already")
