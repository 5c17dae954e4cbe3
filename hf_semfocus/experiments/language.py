"""Language models on text: causal (next token) and masked (hidden tokens), from scratch or from a checkpoint."""

from __future__ import annotations

import atexit
import shutil
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import kinds
from ..console import option
from ..data import CausalRows, MaskedRows, load_text, load_tokenizer, pack, train_tokenizer
from ..data.tokenizer import from_json
from ..metrics import OF_TOKENS
from ..models import PRESETS, Sizes, build_model
from ..models.checkpoints import checkpoint_config, first_position
from ..training import Rows
from .base import ADAMW, Experiment, title

MODELS = {"causal_lm": "llama", "masked_lm": "bert"}
"""Presets that are trained where no model is named."""
DEFAULTS = {
    **ADAMW,
    "eval_batch_size": 16,
    "learning_rate": 1e-3,
    "lr_scheduler": "cosine",
    "warmup_steps": 0.05,
    "best_by": "loss",
}


@dataclass
class Text:
    """Which text a language model learns, and how it becomes rows of tokens; see :func:`load_text`."""

    dataset: str = option("embedded", "embedded, a file or folder (.txt, .json, .csv, .parquet), or a Hub name")
    dataset_config: str | None = option(None, "configuration of a dataset on the Hub")
    text_column: str | None = option(None, "column that holds the text")
    sample_by: Literal["document", "paragraph", "line"] = option("document", "what a document is in a .txt file")
    streaming: bool = option(False, "read no more of the dataset than train_size rows take")
    validation_fraction: float = option(0.05, "share of the documents held out where there is no validation split")
    tokenizer: str | None = option(None, "folder or Hub name; else the checkpoint's, or one is trained on the text")
    vocab_size: int = option(4096, "tokens of a tokenizer that is trained")
    tokenizer_documents: int | None = option(None, "documents that a tokenizer is trained on at most")
    block_size: int = option(256, "tokens of a row")

    def load(self, split: str) -> Dataset | IterableDataset:
        """The documents of a split."""
        return load_text(
            self.dataset,
            split,
            self.text_column,
            config=self.dataset_config,
            streaming=self.streaming,
            validation_fraction=self.validation_fraction,
            sample_by=self.sample_by,
        )


def language(
    accelerator: Accelerator,
    task: str,
    text: Text,
    model: str | None = None,
    sizes: dict[str, Any] | None = None,
    train_size: int | None = None,
    eval_size: int | None = None,
) -> Experiment:
    """Train a language model.

    Args:
        accelerator: tokenizer and rows are made once and shared; every process must call this.
        task: "clm", every token is predicted from those before it, or "mlm", hidden tokens from all others.
        text: what to train on.
        model: preset or checkpoint; LLaMA for "clm" and BERT for "mlm" by default.
        sizes: fields of :class:`Sizes` that differ from 4 layers, 4 heads, width 128 and no dropout.
        train_size, eval_size: rows at most; all of the text by default.

    Raises:
        ValueError: text, tokenizer or model cannot be had, or do not go together.
    """
    if text.streaming and train_size is None:
        raise ValueError("streaming=True needs train_size: the number of rows that are read from the stream")
    if text.streaming and text.tokenizer is None and text.tokenizer_documents is None:
        raise ValueError("streaming=True needs a tokenizer, or tokenizer_documents to train one on")
    kind = kinds.of_task(task).name
    model = model or MODELS[kind]
    config = None if model in PRESETS else checkpoint_config(model, presets=PRESETS)
    named = text.tokenizer or (None if config is None else model)
    tokenizer = load_tokenizer(named) if named else _trained(accelerator, text)
    shape = Sizes(
        vocab_size=len(tokenizer),
        num_labels=None,
        pad_token_id=tokenizer.pad_token_id,
        max_length=text.block_size,
        hidden_size=128,
        intermediate_size=512,
        num_layers=4,
        num_heads=4,
        activation=None,
        dropout=0.0,
    )
    shape = replace(shape, **{key: value for key, value in (sizes or {}).items() if value is not None})
    built = build_model(kind, model, "sdpa", shape)  # what does not fit ends it before the text is read
    if task == "clm":
        check_causal(model, built)
    train, held_out = _packed(accelerator, text, tokenizer, {"train": train_size, "validation": eval_size})

    def rows(seed: int) -> tuple[Rows, Rows]:
        if task == "clm":
            return CausalRows(train), CausalRows(held_out)
        first = 0 if config is None else first_position(config)
        # what is hidden of the held-out text is the same for every seed
        return tuple(
            MaskedRows(packed, tokenizer, seed=number, first_position=first)
            for packed, number in ((train, seed), (held_out, 0))
        )

    return Experiment(
        name=title(task, text.dataset, model),
        kind=kind,
        dataset=text.dataset,
        build=lambda attention: build_model(kind, model, attention, shape),
        rows=rows,
        metrics=OF_TOKENS,
        defaults=DEFAULTS,
        attentions=("sdpa", "topk_sparse:k=8", "banded_sparse:window=8"),
        tokenizer=tokenizer,
        base_model=None if config is None else model,
    )


@torch.no_grad()
def check_causal(name: str, model: PreTrainedModel) -> None:
    """Refuse a checkpoint that sees the token it is to predict: BERT's class for language models is an encoder.

    Raises:
        ValueError: the last token changes what is computed before it.
    """
    ids = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 2]], device=model.device)
    first, second = model.eval()(input_ids=ids, use_cache=False).logits[:, :-1]
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
        raise ValueError(f"model={name!r} sees the tokens after a position; expected a causal language model for clm")


def _trained(accelerator: Accelerator, text: Text) -> PreTrainedTokenizerBase:
    """A tokenizer trained on the text by the main process, and the same on all."""
    sent = [None]
    if accelerator.is_main_process:
        documents = text.load("train")
        if text.tokenizer_documents is not None:
            documents = documents.take(text.tokenizer_documents)
        sent = [train_tokenizer(documents, text.vocab_size).backend_tokenizer.to_str()]
    return from_json(broadcast_object_list(sent)[0])


def _packed(
    accelerator: Accelerator, text: Text, tokenizer: PreTrainedTokenizerBase, sizes: dict[str, int | None]
) -> tuple[Dataset, Dataset]:
    """Rows of both splits, of at most those sizes, packed by one process of a machine and read by the others."""
    folder = None
    if text.streaming:  # which cannot tell whether it gives the same again
        root = Path(datasets.config.HF_DATASETS_CACHE)
        folder = root / broadcast_object_list([f"packed-{uuid.uuid4().hex}"])[0]
        if accelerator.is_local_main_process:
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
    packed = []
    with accelerator.local_main_process_first():
        for split, size in sizes.items():
            key = split if text.streaming else None
            rows = pack(text.load(split), tokenizer, text.block_size, cache_dir=folder, key=key, max_rows=size)
            packed.append(rows)
    return packed[0], packed[1]
