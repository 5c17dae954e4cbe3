"""Classes of labelled data: their names, found in the training data, and the number of every label.

A label is a string, a boolean, or an integer, which a file may also hold as a float without a fraction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

from datasets import ClassLabel

MOST = 1 << 16
"""Classes there may be; integers beyond are no classes but, say, the numbers of the rows."""
_SHOWN = 8


@dataclass(frozen=True)
class Classes:
    """Classes and their numbers.

    Attributes:
        names: of the classes 0, 1, ...
        numbers: number of the class by the label that the data hold.
    """

    names: list[str]
    numbers: dict[Any, int]

    def number(self, label: Any, row: int, split: str) -> int:
        """The number of a label's class.

        Raises:
            ValueError: a label of no class.
        """
        if not _is_label(label) or (number := self.numbers.get(label)) is None:
            raise ValueError(
                f"label {short(label)} in row {row} of {split!r}; expected one of the {len(self.names)} classes of "
                f"'train', {_few(self)}"
            )
        return number


def find_classes(labels: Iterable[tuple[int, Any]], feature: Any) -> Classes:
    """The classes of the training data.

    A ``ClassLabel`` names its classes itself. Strings are classes in the order of their code points, integers are
    the classes from 0 to the largest of them, and booleans are "False" and "True".

    Args:
        labels: every label, after the number of its row.
        feature: what ``datasets`` says about the labels.

    Raises:
        ValueError: a label that is missing or can be none, labels of several kinds, or a single class.
    """
    if isinstance(feature, ClassLabel):
        classes = Classes(list(feature.names), {number: number for number in range(feature.num_classes)})
    else:
        found = set()
        for row, label in labels:
            if not _is_label(label):
                raise ValueError(
                    f"label {short(label)} in row {row} of 'train'; expected a string, a boolean or an integer from 0 "
                    f"to {MOST - 1}"
                )
            found.add(label)
        classes = _classes_of(found)
    if len(classes.names) < 2:
        raise ValueError(f"the labels are of {len(classes.names)} class, {_few(classes)}; expected at least two")
    return classes


def _classes_of(found: set[Any]) -> Classes:
    kinds = {int if isinstance(label, float) else type(label) for label in found}
    if len(kinds) > 1:
        raise ValueError(f"there are labels of the kinds {sorted(k.__name__ for k in kinds)}; expected one kind")
    if kinds == {str}:
        names = sorted(found)
        return Classes(names, {name: number for number, name in enumerate(names)})
    if kinds == {bool}:
        return Classes(["False", "True"], {False: 0, True: 1})
    numbers = range(int(max(found, default=-1)) + 1)
    return Classes([str(number) for number in numbers], {number: number for number in numbers})


def _is_label(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer() and 0 <= value < MOST
    return value != "" if isinstance(value, str) else isinstance(value, int) and 0 <= value < MOST


def _few(classes: Classes) -> str:
    more = f", ... ({len(classes.names) - _SHOWN} more)" if len(classes.names) > _SHOWN else ""
    return ", ".join(map(repr, classes.names[:_SHOWN])) + more
