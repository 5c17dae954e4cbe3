"""Classes of labeled data: their names, found in the training data, and the number of every label.

A label is a string, a boolean, or an integer, which a file may also hold as a float without a fraction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

from datasets import ClassLabel

MOST = 1 << 16
"""Classes there may be; integers beyond are not classes but, say, the numbers of the rows."""
_SHOWN = 8
_TYPE_NAMES = {str: "text", bool: "truth values", int: "integers"}
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
_BOOLEANS = {"true": True, "false": False}


Where = Callable[[int], str]
"""From the number of a row to where it stands, in words."""


@dataclass(frozen=True)
class Classes:
    """Classes and their numbers.

    Attributes:
        names: of the classes 0, 1, ...
        numbers: number of the class by the label that the data hold.
    """

    names: list[str]
    numbers: dict[Any, int]

    @property
    def listed(self) -> str:
        """The names of the first classes, in words."""
        return few(list(map(repr, self.names)))

    def number(self, label: Any, row: int, where: Where) -> int:
        """The number of a label's class.

        Raises:
            ValueError: a label of no class.
        """
        if not _is_label(label) or (number := self.numbers.get(label)) is None:
            raise ValueError(
                f"label {short(label)} in {where(row)}; expected one of the {len(self.names)} classes of 'train', "
                f"{self.listed}"
            )
        return number


def find_classes(labels: Iterable[tuple[int, Any]], feature: Any, where: Where) -> Classes:
    """The classes of the training data.

    A ``ClassLabel`` names its classes itself. Strings are classes in the order of their code points, integers are
    the classes from 0 to the largest of them, and booleans are "False" and "True".

    Args:
        labels: every label, after the number of its row.
        feature: what ``datasets`` says about the labels.
        where: where the rows stand.

    Raises:
        ValueError: a label that is missing or can be none, labels of several kinds, or a single class.
    """
    if isinstance(feature, ClassLabel):
        classes = Classes(list(feature.names), {number: number for number in range(feature.num_classes)})
    else:
        kinds: dict[type, tuple[Any, int]] = {}
        found = set()
        for row, label in labels:
            if not _is_label(label):
                raise ValueError(
                    f"label {short(label)} in {where(row)}; expected a string, a boolean or an integer from 0 to "
                    f"{MOST - 1}: give that example a label, or leave it out"
                )
            found.add(label)
            kinds.setdefault(int if isinstance(label, float) else type(label), (label, row))
        if len(kinds) > 1:
            each = [f"{_TYPE_NAMES[kind]} ({short(label)} in {where(row)})" for kind, (label, row) in kinds.items()]
            raise ValueError(
                f"there are labels of several kinds, {' and '.join(each)}; write all of them in one way (in a .csv "
                "file, what looks like a number is one)"
            )
        classes = _classes_of(found)
    if len(classes.names) < 2:
        raise ValueError(f"the labels are of {len(classes.names)} class, {classes.listed}; expected at least two")
    return classes


def from_cells(cells: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
    """The labels that the cells of .csv files stand for, by split: numbers, truth values, or text.

    A cell is a number where it looks like one, and a truth value only if every cell of "train" is "true" or "false"
    in some spelling.
    """
    true = all(cell.strip().lower() in _BOOLEANS for cell in cells["train"])

    def label(cell: str) -> Any:
        plain = cell.strip()
        if true:
            return _BOOLEANS.get(plain.lower(), cell)
        if not _NUMBER.fullmatch(plain):
            return cell
        number = float(plain)
        return int(number) if number.is_integer() else number

    return {split: [label(cell) for cell in column] for split, column in cells.items()}


def _classes_of(found: set[Any]) -> Classes:
    if all(isinstance(label, str) for label in found):
        names = sorted(found)
        return Classes(names, {name: number for number, name in enumerate(names)})
    if all(isinstance(label, bool) for label in found):
        return Classes(["False", "True"], {False: 0, True: 1})
    numbers = range(int(max(found)) + 1)
    return Classes([str(number) for number in numbers], {number: number for number in numbers})


def _is_label(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer() and 0 <= value < MOST
    return value != "" if isinstance(value, str) else isinstance(value, int) and 0 <= value < MOST


def few(items: Sequence[str]) -> str:
    """The first of many, and how many more there are."""
    more = f", ... ({len(items) - _SHOWN} more)" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
