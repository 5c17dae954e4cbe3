"""The tokenizer of a language model: an existing one, or one trained on the documents at hand.

A trained one is byte-level BPE: decoding restores every text, and there is no unknown token. It is deterministic: the
same documents give the same file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "mask_token": "<mask>"}
"""Special tokens of a trained tokenizer; their ids are 0, 1, 2 and 3."""


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or of a model on the Hub; no code of a model is ever run.

    Raises:
        ValueError: there is none.
    """
    try:
        loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"tokenizer={name!r}: expected a folder or a model that has one: {reason}") from error
    if loaded.vocab_size == 0:  # what Transformers makes up for a model's folder without a tokenizer's files
        raise ValueError(f"tokenizer={name!r} has no tokens; expected a folder or a model that has a tokenizer")
    return loaded


def train_tokenizer(documents: Iterable[Mapping[str, Any]], vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the column "text" of the documents.

    Args:
        documents: read once; documents without text are skipped.
        vocab_size: number of tokens, special ones included; fewer if the text has no more repeated pairs.

    Returns:
        A tokenizer that adds no special tokens by itself, with "<pad>", "<bos>", "<eos>" and "<mask>".

    Raises:
        ValueError: ``vocab_size`` leaves no room for the 256 bytes and the special tokens.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(SPECIAL)
    if vocab_size < least:
        raise ValueError(f"vocab_size={vocab_size!r}; expected at least {least}, for every byte and special token")
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    trained.train_from_iterator((text for row in documents if (text := row["text"])), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, **SPECIAL)


def from_json(text: str) -> PreTrainedTokenizerFast:
    """A tokenizer that ``train_tokenizer`` made, from ``backend_tokenizer.to_str()``."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(text), **SPECIAL)
