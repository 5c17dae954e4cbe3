"""Documents as rows of ``block_size`` tokens, in a file that is mapped into memory.

Every document is ended by a token, and the documents are laid end to end and cut into rows. What a row holds of one
document is a piece; no piece may see another, so a model has to learn where each begins: ``starts`` says so, and a
position counts from there.
"""

from __future__ import annotations

import atexit
import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import tokenizers
import transformers
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from ..messages import check_integer

SMALLEST = 4
_DOCUMENTS_AT_ONCE = 64


def pack(
    documents: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    cache_dir: str | Path | None = None,
    key: str | None = None,
    max_rows: int | None = None,
) -> Dataset:
    """Tokenize documents and pack them into rows; the memory this takes does not grow with the documents.

    Text that spells a special token is tokenized as text. Documents without a token are passed over. The end of the
    last row is padding, every token of it a piece of its own. A last row of one token, which predicts nothing, is left
    out; else every token is in one row, once, in order.

    Args:
        documents: column "text".
        tokenizer: its ``eos_token``, or else its ``sep_token``, ends a document; nothing is put before it.
        block_size: tokens of a row, at least 4.
        cache_dir: where the rows are written; None for the cache of ``datasets``. What is there already is read again
            if documents, tokenizer and ``block_size`` are the same.
        key: what names the documents in the cache; it must change with them. Needed for an ``IterableDataset``, which
            cannot tell whether it is the same as before and else is packed anew into a file that goes at exit.
        max_rows: stop after so many rows, and read no more documents than that takes.

    Returns:
        Dataset with the columns ``input_ids`` (int32) and ``starts`` (bool: the token begins a piece), both
        ``[block_size]``.

    Raises:
        ValueError: a ``block_size`` that is too small, a tokenizer without a token to end documents, no tokens.
    """
    block_size = check_integer("block_size", block_size, SMALLEST)
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if end is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no eos_token and no sep_token; expected one to end documents"
        )
    cache = Path(datasets.config.HF_DATASETS_CACHE if cache_dir is None else cache_dir)
    key = getattr(documents, "_fingerprint", None) if key is None else key
    if key is None:
        cache.mkdir(parents=True, exist_ok=True)
        cache = Path(tempfile.mkdtemp(prefix="packed-", dir=cache))
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
    features = {
        "input_ids": datasets.List(datasets.Value("int32"), length=block_size),
        "starts": datasets.List(datasets.Value("bool"), length=block_size),
    }
    try:
        return Dataset.from_generator(
            lambda: itertools.islice(_rows(documents, tokenizer, block_size, end), max_rows),
            features=datasets.Features(features),
            cache_dir=str(cache),
            fingerprint=_fingerprint(str(key), tokenizer, block_size, max_rows),
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None


def _rows(
    documents: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, block_size: int, end: int
) -> Iterator[dict[str, np.ndarray]]:
    padding = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids, starts = np.full(block_size, padding, np.int32), np.ones(block_size, bool)
    filled = total = 0
    for tokens in _tokenized(documents, tokenizer, end):
        total += len(tokens)
        while len(tokens):
            piece, tokens = np.split(tokens, [block_size - filled])
            ids[filled : filled + len(piece)] = piece
            starts[filled + 1 : filled + len(piece)] = False
            filled += len(piece)
            if filled == block_size:
                yield {"input_ids": ids, "starts": starts}
                ids, starts = np.full(block_size, padding, np.int32), np.ones(block_size, bool)
                filled = 0
    if not total:
        raise ValueError("the documents have no tokens; expected at least one")
    if not starts.all():
        yield {"input_ids": ids, "starts": starts}


def _tokenized(
    documents: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, end: int
) -> Iterator[np.ndarray]:
    """The tokens of every document that has any, ended."""
    for batch in documents.iter(_DOCUMENTS_AT_ONCE):
        texts = [text for text in batch["text"] if text]
        if not texts:
            continue
        encoded = tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        yield from (np.array([*ids, end], np.int32) for ids in encoded["input_ids"] if ids)


def _fingerprint(key: str, tokenizer: PreTrainedTokenizerBase, block_size: int, max_rows: int | None) -> str:
    """Changes with anything that could change the rows, this file included."""
    versions = (datasets.__version__, tokenizers.__version__, transformers.__version__)
    parts = (key, block_size, max_rows, tokenizer.eos_token_id, tokenizer.pad_token_id, versions)
    digest = hashlib.sha256(repr(parts).encode())
    digest.update(Path(__file__).read_bytes())
    if tokenizer.is_fast:
        digest.update(tokenizer.backend_tokenizer.to_str().encode())
    else:
        with tempfile.TemporaryDirectory() as folder:
            for file in sorted(tokenizer.save_pretrained(folder)):
                digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:32]
