"""Texts with a label each, or with a label for every word: files, or a dataset of the Hugging Face Hub.

    data = load_labeled("reviews.csv")
    data = load_labeled("nyu-mll/glue", config="rte", text_columns=["sentence1", "sentence2"])
    data = load_labeled("names.jsonl", kind="token")
    data.train, data.validation, data.label_names

Whatever the source calls its columns and its classes, what comes out has the same columns and classes as integers.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from reprlib import repr as short
from typing import Any, Literal

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, Value

from ...messages import check_integer
from .columns import LABELS, TEXTS, find_label, find_texts, listed
from .labels import Classes, Where, few, find_classes, from_cells
from .places import is_csv, place
from .reading import read_splits

_STREAM = 0x6C6162
"""Keeps these random numbers apart from others drawn from the same seed."""


@dataclass(frozen=True)
class Labeled:
    """Labeled data in two splits.

    Attributes:
        train, validation: of kind "sequence", columns "text", for pairs "text_pair", and "label"; of kind "token",
            columns "words" and "labels", as many in every row. Labels are class numbers (``ClassLabel``).
        label_names: names of the classes 0, 1, ...
        kind: "sequence" or "token".
    """

    train: Dataset
    validation: Dataset
    label_names: list[str]
    kind: str

    @property
    def found(self) -> str:
        """The classes with their number in the training split, in words: "2 classes: 'bad' 12, 'good' 31"."""
        labels = self.train["label" if self.kind == "sequence" else "labels"][:]
        counts = Counter(itertools.chain(*labels) if self.kind == "token" else labels)
        each = [f"{name!r} {counts[number]}" for number, name in enumerate(self.label_names)]
        return f"{len(each)} classes: {few(each)}"


def load_labeled(
    dataset: str,
    *,
    kind: Literal["sequence", "token"] = "sequence",
    text_columns: str | Sequence[str] | None = None,
    label_column: str | None = None,
    config: str | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Labeled:
    """Load both splits of a labeled dataset into memory.

    Args:
        dataset: a file (.json, .jsonl, .csv or .parquet, also compressed) or a folder of files of one kind; or else
            the name of a dataset on the Hub. No code of a dataset is ever run. Every cell of a .csv file is taken
            as it is: "NA" and "None" are text. Labels there are integers where all of them look like numbers.
        kind: "sequence" for a label per text or pair of texts, "token" for a label per word.
        text_columns: the column of texts, or two columns for pairs; by default "text" or "sentence" or the only
            column of text. Of kind "token", the column of lists of words, by default "tokens" or "words".
        label_column: column of classes, by default "label" or "labels"; of kind "token", the column of lists of
            classes, by default "ner_tags", "tags", "pos_tags" or "labels". Classes are strings, integers (all from 0
            to the largest of the training split are classes), booleans or a ``ClassLabel``.
        config: which configuration of a dataset on the Hub.
        validation_fraction: share of the training rows, at least one, that is held out where there is no validation
            split: random ones, because files are often sorted by label. Classes are those of all training rows.
        seed: which rows are held out; a non-negative integer.

    Raises:
        ValueError: a bad argument, no such dataset or column, too few rows, a row without text or label, or a
            validation label that is no class of the training split. The message names the file and the line, from 1.
    """
    if kind not in TEXTS:
        raise ValueError(f"kind={kind!r}; expected one of {', '.join(TEXTS)}")
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction={validation_fraction!r}; expected a share between 0 and 1")
    check_integer("seed", seed, 0)
    cells = dict.fromkeys([*TEXTS[kind], *LABELS[kind], *listed(text_columns), *listed(label_column)], str)
    splits = read_splits(dataset, config, options={"csv": {"keep_default_na": False, "converters": cells}})
    label = find_label(dataset, splits["train"], kind, label_column)
    texts = find_texts(dataset, splits["train"], kind, text_columns, label)
    names = [name for name in ("train", "validation") if name in splits]
    where = {name: partial(place, dataset, name) for name in names}
    try:
        read = {name: _read(name, splits[name], kind, texts, label, where[name]) for name in names}
        if is_csv(dataset):
            for name, labels in from_cells({name: columns[-1] for name, columns in read.items()}).items():
                read[name][-1] = labels
        feature = splits["train"].features[label]
        rows = enumerate(read["train"][-1])
        labels = ((row, value) for row, line in rows for value in line) if kind == "token" else rows
        classes = find_classes(labels, getattr(feature, "feature", feature), where["train"])
        made = {name: _numbered(name, columns, kind, classes, where[name]) for name, columns in read.items()}
    except ValueError as error:
        raise ValueError(f"dataset={dataset!r}, columns {[*texts, label]}: {error}") from error
    if "validation" not in made:
        made = _hold_out(dataset, made["train"], validation_fraction, seed)
    return Labeled(made["train"], made["validation"], classes.names, kind)


def _read(split: str, rows: Dataset, kind: str, texts: list[str], label: str, where: Where) -> list[list[Any]]:
    """The columns of texts and then the labels, every text checked."""
    if not len(rows):
        raise ValueError(f"{split!r} has no rows; expected at least one")
    missing = [column for column in (*texts, label) if column not in rows.column_names]
    if missing:
        raise ValueError(f"{split!r} has no column {missing[0]!r}; it has {rows.column_names}")
    columns = [rows[column][:] for column in (*texts, label)]
    for row, (*given, labels) in enumerate(zip(*columns, strict=True)):
        for column, value in zip(texts, given, strict=True):
            if not (_is_words(value) if kind == "token" else isinstance(value, str)):
                expected = "a list of words, at least one" if kind == "token" else "text"
                raise ValueError(f"{column} {short(value)} in {where(row)}; expected {expected}")
        if kind == "token" and (not isinstance(labels, list) or len(labels) != len(given[0])):
            raise ValueError(
                f"{label} {short(labels)} in {where(row)}; expected a list with a label for each of its "
                f"{len(given[0])} words"
            )
    return columns


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)


def _numbered(split: str, columns: list[list[Any]], kind: str, classes: Classes, where: Where) -> Dataset:
    *texts, labels = columns
    feature = ClassLabel(names=classes.names)
    if kind == "token":
        numbers = [[classes.number(label, row, where) for label in line] for row, line in enumerate(labels)]
        features = {"words": datasets.List(Value("string")), "labels": datasets.List(feature)}
    else:
        numbers = [classes.number(label, row, where) for row, label in enumerate(labels)]
        features = dict.fromkeys(["text", "text_pair"][: len(texts)], Value("string")) | {"label": feature}
    columns = dict(zip(features, [*texts, numbers], strict=True))
    return Dataset.from_dict(columns, datasets.Features(features), split=datasets.NamedSplit(split))


def _hold_out(name: str, rows: Dataset, fraction: float, seed: int) -> dict[str, Dataset]:
    count = max(1, round(len(rows) * fraction))
    if count >= len(rows):
        raise ValueError(
            f"dataset={name!r} has {len(rows)} rows and no validation split; expected more of them, to hold {count} "
            "out"
        )
    # uniform numbers only: NumPy promises more about them than about what it derives from them
    order = np.argsort(np.random.default_rng([_STREAM, seed]).random(len(rows)), kind="stable")
    return {"train": rows.select(np.sort(order[count:])), "validation": rows.select(np.sort(order[:count]))}
