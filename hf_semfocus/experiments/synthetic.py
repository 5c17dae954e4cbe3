"""The tasks of this library: sequence classification as in the paper (arXiv 2506.14095), and associative recall."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from ..data import SequenceRows, TokenRows, tasks
from ..models import PRESETS, Sizes, build_model
from ..training import Rows
from .base import Experiment, title

PAPER = {
    "epochs": 60,
    "batch_size": 25,
    "eval_batch_size": 250,
    "optimizer": "sgd",
    "lr_scheduler": "constant",
    "warmup_steps": 0,
    "max_grad_norm": 0.5,
    "target_accuracy": 0.95,
    "epochs_after_target": 2,
    "best_by": "accuracy",
}
RECALL = {**PAPER, "batch_size": 64, "optimizer": "adamw", "max_grad_norm": 1.0, "epochs_after_target": 1}


def synthetic(
    name: str,
    model: str | None = None,
    sizes: dict[str, int | float | str | None] | None = None,
    train_size: int | None = None,
    eval_size: int | None = None,
    pad_as_tokens: bool = False,
) -> Experiment:
    """Train on a task of :mod:`hf_semfocus.data.tasks`.

    Args:
        name: of the task, with parameters if any; one of the kind "causal_lm" is predicted token by token.
        model: preset or checkpoint; the paper's encoder by default, and LLaMA for a causal task.
        sizes: fields of :class:`Sizes` that differ from the paper's.
        train_size, eval_size: number of examples; the task's own by default.
        pad_as_tokens: let the model take padding for tokens, as the paper's code does.

    Raises:
        ValueError: an unknown task or model, or ``pad_as_tokens`` for a causal task.
    """
    task = tasks.get(name)
    causal = task.kind == "causal_lm"
    if causal and pad_as_tokens:
        raise ValueError(f"pad_as_tokens=True is for classification; the task {name!r} is of the kind {task.kind!r}")
    wanted = {key: value for key, value in (sizes or {}).items() if value is not None}
    shape = Sizes(
        vocab_size=task.vocab_size,
        num_labels=None if causal else task.num_labels,
        pad_token_id=task.pad_token_id,
        max_length=task.max_length,
        num_layers=task.num_layers,
    )
    shape = replace(shape, **({"activation": None, "dropout": 0.0} if causal else {}), **wanted)
    model = model or ("llama" if causal else "paper")

    def rows(seed: int) -> tuple[Rows, Rows]:
        wanted = {"train": train_size, "validation": eval_size}
        return tuple(rows_of(name, split, seed, size, pad_as_tokens) for split, size in wanted.items())

    return Experiment(
        name=title(re.sub("[:,]", "-", name), model),
        kind=task.kind,
        dataset=name,
        build=lambda attention: build_model(task.kind, model, attention, shape),
        rows=rows,
        defaults={
            **(RECALL if causal else PAPER),
            "learning_rate": task.learning_rate,
            "lr_decay": task.lr_decay,
        },
        attentions=("sdpa", "topk_sparse:k=5", "banded_sparse:window=5"),
        base_model=None if model in PRESETS else model,
    )


def rows_of(name: str, split: str, seed: int, size: int | None, pad_as_tokens: bool) -> Rows:
    """Rows of a split of a task; arguments as for :func:`synthetic` and :func:`hf_semfocus.data.tasks.load`."""
    task, held = tasks.get(name), tasks.load(name, split=split, seed=seed, size=size)
    make = TokenRows if task.kind == "causal_lm" else partial(SequenceRows, pad_as_tokens=pad_as_tokens)
    return make(held["input_ids"][:], held["labels"][:], task.pad_token_id)
