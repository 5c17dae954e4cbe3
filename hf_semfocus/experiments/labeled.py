"""Fine-tuning a checkpoint on labeled texts: a class per text or pair of texts, or a class per word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .. import kinds
from ..console import check_at_least, option
from ..data import LabeledRows, TaggedRows, load_labeled, load_tokenizer
from ..data.tokenized import TokenizedRows
from ..kinds import Kind
from ..metrics import OF_CLASSES
from ..models import PRESETS, Sizes, build_model
from ..models.checkpoints import checkpoint_config, positions_of
from .base import ADAMW, Experiment, title

ROWS = {"classification": LabeledRows, "token_classification": TaggedRows}
"""Rows of a kind of model."""
ATTENTIONS = ("sdpa", "topk_sparse:k=8", "banded_sparse:window=16")
DEFAULTS = {
    **ADAMW,
    "eval_batch_size": 64,
    "learning_rate": 5e-5,
    "lr_scheduler": "linear",
    "warmup_steps": 0.06,
    "best_by": "accuracy",
}
"""Options of fine-tuning all weights."""
ON_THE_HUB = {"gpt2": "openai-community/gpt2", "bert": "google-bert/bert-base-uncased"}
"""Checkpoints on the Hub that a user may mean by the name of a preset."""


@dataclass
class Examples:
    """Which texts a checkpoint is fine-tuned on, and how they become tokens; see :func:`load_labeled`.

    Sizes are of random examples, the same for every seed.

    Raises:
        ValueError: no dataset, or a size below 1.
    """

    dataset: str | None = option(None, "a file or folder (.json, .csv, .parquet; clm: also .txt), or a Hub name")
    dataset_config: str | None = option(None, "configuration of a dataset on the Hub")
    text_columns: list[str] = option([], "column of the text, two for pairs; found by name by default")  # noqa: RUF009
    label_column: str | None = option(None, "column of the classes; found by name by default")
    validation_fraction: float | None = option(None, "share held out where there is no validation split")
    tokenizer: str | None = option(None, "folder or Hub name; the checkpoint's by default")
    max_length: int | None = option(None, "cut texts to this many tokens; by default one that is too long is an error")
    train_size: int | None = option(None, "training examples (clm: rows) at most")
    eval_size: int | None = option(None, "held-out examples (clm: rows) at most")

    def __post_init__(self) -> None:
        if self.dataset is None:
            raise ValueError("dataset=None; expected a file or folder, or a name on the Hub")
        for name in ("train_size", "eval_size"):
            check_at_least(name, getattr(self, name), 1)


def labeled(accelerator: Accelerator, task: str, model: str, examples: Examples) -> Experiment:
    """Fine-tune a checkpoint as a classifier; the data's classes are in the configuration of what is saved.

    Args:
        accelerator: one process of a machine reads the data first; every process must call this.
        task: "sequence", a class for every text or pair, or "token", a class for every word.
        model: folder or Hub name of a checkpoint.
        examples: what to train on.

    Raises:
        ValueError: data, tokenizer or checkpoint cannot be had, or do not go together.
    """
    kind = kinds.of_task(task)
    make = ROWS[kind.name]
    config = checkpoint(model)
    tokenizer = load_tokenizer(examples.tokenizer or model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    with accelerator.local_main_process_first():
        data = load_labeled(
            examples.dataset,
            kind=task,
            text_columns=examples.text_columns or None,
            label_column=examples.label_column,
            config=examples.dataset_config,
            validation_fraction=0.1 if examples.validation_fraction is None else examples.validation_fraction,
        )
    accelerator.print(f"dataset={examples.dataset!r} has {data.found}")
    splits = {"training": (data.train, examples.train_size), "held-out": (data.validation, examples.eval_size)}
    rows = {name: make(_some(split, size), tokenizer, examples.max_length) for name, (split, size) in splits.items()}
    _check_lengths(model, config, examples, max(part.longest for part in rows.values()))
    _check_head(model, config, kind, data.label_names)
    shape = Sizes(
        vocab_size=1 + max(_largest(part) for part in rows.values()),
        num_labels=len(data.label_names),
        pad_token_id=tokenizer.pad_token_id,
        max_length=max(part.longest for part in rows.values()),
    )

    cut = [
        f"{part.truncated} of {len(part)} {name} examples were longer than {examples.max_length} tokens and cut."
        for name, part in rows.items()
        if part.truncated
    ]

    told = False

    def build(attention: str) -> PreTrainedModel:
        nonlocal told
        with _quiet() if told else nullcontext():  # that the head is new is said once, not for every run
            built = build_model(kind.name, model, attention, shape)
        told = True
        built.config.id2label = dict(enumerate(data.label_names))
        built.config.label2id = {name: number for number, name in enumerate(data.label_names)}
        return built

    return Experiment(
        name=title(task, examples.dataset, model),
        kind=kind.name,
        dataset=examples.dataset,
        build=build,
        rows=lambda seed: tuple(rows.values()),
        metrics=OF_CLASSES,
        defaults=DEFAULTS,
        attentions=ATTENTIONS,
        tokenizer=tokenizer,
        base_model=model,
        notes=(f"The training split has {data.found}.", *cut),
    )


def checkpoint(model: str) -> PreTrainedConfig:
    """The configuration of a checkpoint that is to be fine-tuned.

    Raises:
        ValueError: there is none.
    """
    if model in PRESETS:
        place = f"./{model}" if Path(model).is_dir() else ON_THE_HUB.get(model)
        such = f" such as {place}" if place else ""
        raise ValueError(f"model={model!r} would have random weights; expected a folder or a name on the Hub{such}")
    return checkpoint_config(model)


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _some(split: Dataset, size: int | None) -> Dataset:
    """Random examples of a split, which may be sorted by class, in the order in which it has them."""
    if size is None or size >= len(split):
        return split
    return split.select(sorted(split.add_column("row", range(len(split))).shuffle(seed=0)["row"][:size]))


def _largest(rows: TokenizedRows) -> int:
    """The largest token id, padding included."""
    return max(int(rows.columns["input_ids"].max()), rows.fillers["input_ids"])


def _check_lengths(model: str, config: PreTrainedConfig, examples: Examples, longest: int) -> None:
    positions = positions_of(config)
    if positions is not None and longest > positions:
        raise ValueError(
            f"dataset={examples.dataset!r}: the longest example has {longest} tokens, and model={model!r} has "
            f"{positions} positions; expected max_length of at most {positions}, to cut what is longer"
        )


def _check_head(model: str, config: PreTrainedConfig, kind: Kind, names: Sequence[str]) -> None:
    """Refuse a head for other classes, which could not be loaded.

    Raises:
        ValueError: names both numbers.
    """
    classes = {cls.__name__ for cls in kind.classes(config)}
    if classes & set(config.architectures or ()) and config.num_labels != len(names):
        raise ValueError(
            f"model={model!r} has a head for {config.num_labels} classes, and the data have {len(names)}; expected a "
            "checkpoint without a head, or with one of that size"
        )
