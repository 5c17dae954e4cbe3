"""Documents as rows of ``block_size`` tokens, in a memory-mapped file.

Documents, each followed by an end token, are concatenated and cut into rows. The part of one document in a row is a
piece. No piece may see another: ``starts`` marks where each begins, and positions count from there.
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
    """Tokenize documents and pack them into rows, in constant memory.

    Text that spells a special token is tokenized as text. Documents without tokens are skipped. The last row is
    padded, and every padding token is a piece of its own. A last row of one token, which predicts nothing, is dropped;
    otherwise every token is in exactly one row, in order.

    Args:
        documents: column "text".
        tokenizer: its ``eos_token``, or else its ``sep_token``, ends a document; there is no start token.
        block_size: tokens of a row, at least 4.
        cache_dir: folder for the rows; None for the cache of ``datasets``. They are reused if documents, tokenizer and
            ``block_size`` are the same.
        key: identifies the documents in the cache, and must change with them. Needed for an ``IterableDataset``, which
            has no fingerprint and is otherwise packed again, into a file that is deleted at exit.
        max_rows: stop after this many rows, without reading more documents than needed.

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
    """The tokens of every nonempty document, with the end token."""
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
    """A hash of everything that determines the rows, including this file."""
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
