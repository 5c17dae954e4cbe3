"""The rows that a pair of models is measured on: lines of a text, or those of the task that they were trained on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...data import TokenRows, load_text, load_tokenizer, tasks
from ...models.checkpoints import positions_of
from ...training import OBJECTIVES, Objective, Rows
from ..synthetic import synthetic
from .models import Model, kind_of
from .pairs import Planned

SHORTEST = 2
"""Tokens of a row that is measured."""


@dataclass(frozen=True)
class Inputs:
    """Rows for a model.

    Attributes:
        batches: inputs of the model, a row each: int64 ``[1, length]``.
        tokens: of every row, in words.
        source: what they are, in words.
        rows, objective: for its loss; None where it has none on these rows.
    """

    batches: Sequence[dict[str, Tensor]]
    tokens: Sequence[Sequence[str]]
    source: str
    rows: Rows | None = None
    objective: Objective | None = None

    @classmethod
    def of(cls, planned: Planned, text: str | None, rows: int, length: int) -> Inputs:
        """Those of a pair.

        Args:
            planned: the pair.
            text: a file of which every line is a row; None for the text of this package. Runs of a synthetic task
                have their task's rows.
            rows: how many at most.
            length: tokens of the longest; a longer line is cut. Rows of a task stay whole.

        Raises:
            ValueError: a text for a synthetic task, a model without a tokenizer or with two parts, or a text without
                rows.
        """
        task = planned.options.get("task")
        if tasks.exists(task):
            if text is not None:
                raise ValueError(f"text={text!r} has no effect on {planned.name}, runs of the task {task!r}")
            return cls._of_task(task, planned, rows)
        return cls._of_text(planned.dense, text, rows, length)

    @classmethod
    def _of_task(cls, task: str, planned: Planned, rows: int) -> Inputs:
        names = ("model", "eval_size", "pad_as_tokens")
        experiment = synthetic(task, train_size=rows, **{name: planned.options.get(name) for name in names})
        held, spelled = experiment.rows(planned.seed)[0], [*tasks.get(task).vocabulary, "<pad>"]
        batches = [held.batch(np.array([row]), np.array([row])) for row in range(len(held))]
        tokens = [[spelled[token] for token in batch["input_ids"][0].tolist()] for batch in batches]
        batches = [{name: each for name, each in batch.items() if name != "labels"} for batch in batches]
        return cls(batches, tokens, f"training rows of {task}", held, experiment.objective)

    @classmethod
    def _of_text(cls, model: Model, text: str | None, rows: int, length: int) -> Inputs:
        config, tokenizer = model.config, load_tokenizer(model.path)
        if config.is_encoder_decoder:
            raise ValueError(f"model={model.path!r} is an encoder with a decoder; expected one of the two")
        options = {"truncation": True, "max_length": min(length, positions_of(config) or length)}
        encoded = (dict(tokenizer(line, return_tensors="pt", **options)) for line in _lines(text))
        long_enough = (batch for batch in encoded if batch["input_ids"].shape[-1] >= SHORTEST)
        batches = list(itertools.islice(long_enough, rows))
        if not batches:
            raise ValueError(f"text={text!r} has no line of {SHORTEST} tokens or more; expected at least one")
        source = "sentences of the embedded text" if text is None else f"lines of {Path(text).name}"
        ids = [batch["input_ids"][0].tolist() for batch in batches]
        tokens = [_words(tokenizer, each) for each in ids]
        if kind_of(config).name != "causal_lm":
            return cls(batches, tokens, source)
        return cls(batches, tokens, source, TokenRows(ids, ids, tokenizer.pad_token_id or 0), OBJECTIVES["causal_lm"])


def _lines(text: str | None) -> Iterable[str]:
    """The lines of a file, or of the text of this package a sentence each, without empty ones."""
    if text is None:
        documents = load_text("embedded", "validation")
        yield from (f"{part}." for row in documents for part in row["text"].split(". "))
        return
    try:
        content = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"text={text!r} cannot be read as a text; expected a file in UTF-8: {error}") from error
    yield from (line.strip() for line in content.splitlines() if line.strip())


def _words(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Tokens as text, with marks for spaces and ends of lines."""
    return [tokenizer.decode([token]).replace(" ", "·").replace("\n", "⏎") or "␀" for token in ids]
