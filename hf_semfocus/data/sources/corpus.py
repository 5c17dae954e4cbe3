"""Documents to train a language model on: the text this package ships, files, or a dataset of the Hugging Face Hub.

    documents = load_text("embedded", "train")
    documents = load_text("notes/", "validation", sample_by="paragraph")
    documents = load_text("roneneldan/TinyStories", "train", streaming=True)

``datasets`` does the reading; what is added is one column, a held-out split where there is none, and errors of one
line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import datasets
from datasets import Dataset, IterableDataset

from . import embedded
from .reading import read_splits, reading

Documents = Dataset | IterableDataset
SPLITS = ("train", "validation")
TEXT = ("string", "large_string", "string_view", "null")


def load_text(
    dataset: str,
    split: str = "train",
    text_column: str | None = None,
    *,
    config: str | None = None,
    streaming: bool = False,
    validation_fraction: float = 0.05,
    sample_by: Literal["document", "paragraph", "line"] = "document",
) -> Documents:
    """Load the documents of one split.

    Args:
        dataset: "embedded"; a file (.txt, .json, .jsonl, .csv or .parquet, also compressed) or a folder of files of
            one kind; or else the name of a dataset on the Hub. No code of a dataset is ever run.
        split: "train" or "validation". Where there is no validation split, the last documents of the training split
            are it, and are left out of "train".
        text_column: column that holds the text; "text" by default, or the only column.
        config: which configuration of a dataset on the Hub.
        streaming: read documents as they are needed instead of copying all of them to the cache first. Where the
            last documents are held out and nothing tells how many there are, this reads the data once to count.
        validation_fraction: share of the documents that is held out, at least one document.
        sample_by: what a document is in a .txt file: all of it, a paragraph, or a line.

    Returns:
        Documents as the one column "text", in the order they have in the source.

    Raises:
        ValueError: a bad argument, nothing there, no such column, or no documents.
        OSError: the embedded text is damaged.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; expected one of {', '.join(SPLITS)}")
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction={validation_fraction!r}; expected a share between 0 and 1")
    if sample_by not in ("document", "paragraph", "line"):
        raise ValueError(f"sample_by={sample_by!r}; expected one of document, paragraph, line")
    if dataset == "embedded":
        documents = Dataset.from_list(embedded.records(split), split=datasets.NamedSplit(split))
        documents = documents.to_iterable_dataset() if streaming else documents
    else:
        splits = read_splits(dataset, config, streaming, options={"text": {"sample_by": sample_by}})
        if "validation" in splits:
            documents = splits[split]
        else:
            documents = _hold_out(dataset, splits["train"], split, validation_fraction)
    documents = _text_of(dataset, documents, split, text_column)
    return _checked(dataset, documents) if isinstance(documents, IterableDataset) else documents


def _checked(name: str, documents: IterableDataset) -> IterableDataset:
    """The same stream, whose errors are of one line wherever in it they come."""

    def read() -> Iterator[dict[str, str | None]]:
        rows = iter(documents)
        while True:
            with reading(name):
                row = next(rows, None)
            if row is None:
                return
            yield row

    return IterableDataset.from_generator(read, features=documents.features)


def _hold_out(name: str, documents: Documents, split: str, fraction: float) -> Documents:
    with reading(name):
        count = len(documents) if isinstance(documents, Dataset) else _count(documents)
    if not count:
        raise ValueError(f"dataset={name!r} has no documents; expected at least two")
    held_out = max(1, round(count * fraction))
    if held_out >= count:
        raise ValueError(
            f"dataset={name!r} has {count} documents and no validation split; expected more of them, to hold "
            f"{held_out} out (of a .txt file, sample_by='paragraph' or 'line' makes many)"
        )
    # take and skip mean the same on both kinds of datasets
    return documents.take(count - held_out) if split == "train" else documents.skip(count - held_out)


def _count(documents: IterableDataset) -> int:
    known = (documents.info.splits or {}).get("train")
    if known is not None and known.num_examples:
        return known.num_examples
    return sum(1 for _ in documents)


def _text_of(name: str, documents: Documents, split: str, column: str | None) -> Documents:
    with reading(name):
        first = next(iter(documents), None)
    if first is None:
        raise ValueError(f"dataset={name!r} has no documents in its split {split!r}; expected at least one")
    columns = list(first)
    wanted = column or (columns[0] if len(columns) == 1 else "text")
    if wanted not in columns:
        raise ValueError(f"dataset={name!r} has no column {wanted!r}; expected text_column to be one of {columns}")
    feature = (documents.features or {}).get(wanted)
    kind = None
    if not isinstance(first[wanted], str | None):
        kind = type(first[wanted]).__name__
    elif feature is not None and getattr(feature, "dtype", None) not in TEXT:  # there may be others below the first
        kind = getattr(feature, "dtype", None) or f"values of the type {type(feature).__name__}"
    if kind is not None:
        raise ValueError(f"text_column={wanted!r} of dataset={name!r} holds {kind}; expected text")
    documents = documents.select_columns(wanted)
    return documents if wanted == "text" else documents.rename_column(wanted, "text")
