"""Which columns of labeled data hold the texts, and which the labels."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset, Value

TEXTS = {"sequence": ("text", "sentence"), "token": ("tokens", "words")}
"""By kind of labeled data, the columns of texts by default: the first of them that there is."""
LABELS = {"sequence": ("label", "labels"), "token": ("ner_tags", "tags", "pos_tags", "labels")}
"""The columns of labels, likewise."""


def find_label(name: str, split: Dataset, kind: str, wanted: str | None) -> str:
    """The column of labels: ``wanted``, or the default of the kind.

    Raises:
        ValueError: the dataset ``name`` has no such column.
    """
    wanted = wanted or next((column for column in LABELS[kind] if column in split.column_names), LABELS[kind][0])
    if wanted not in split.column_names:
        alone = split.column_names[0] if len(split.column_names) == 1 else ""
        mark = next((mark for mark in ";\t" if mark in alone), None)
        cure = "" if mark is None else f"; are its cells separated by {mark!r}? expected commas"
        raise ValueError(
            f"dataset={name!r} has no column {wanted!r}; expected label_column to be one of {split.column_names}{cure}"
        )
    return wanted


def listed(names: str | Sequence[str] | None) -> list[str]:
    """Names of columns as a list, whether one, several or none are given."""
    return [names] if isinstance(names, str) else list(names or ())


def find_texts(name: str, split: Dataset, kind: str, wanted: str | Sequence[str] | None, label: str) -> list[str]:
    """The column of texts, or both of pairs: ``wanted``, or the default of the kind; never the column ``label``.

    Raises:
        ValueError: the dataset ``name`` has no such column, or not one or two are wanted.
    """
    others = [column for column in split.column_names if column != label]
    if wanted is None:
        text = [column for column in others if split.features[column] in (Value("string"), Value("large_string"))]
        only = text if kind == "sequence" and len(text) == 1 else []
        found = [column for column in TEXTS[kind] if column in others] or only or [TEXTS[kind][0]]
        columns = found[:1]
    else:
        columns = listed(wanted)
    most = {"sequence": 2, "token": 1}[kind]
    if not 1 <= len(columns) <= most or len(set(columns)) < len(columns):
        raise ValueError(f"text_columns={wanted!r}; expected 1{' or 2' if most == 2 else ''} of {others}")
    for column in columns:
        if column not in others:
            raise ValueError(f"dataset={name!r} has no column {column!r}; expected text_columns to be of {others}")
    return columns
