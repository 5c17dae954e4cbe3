"""What a task is, and the registry task files join.

A task is one file: a subclass of `Task` that sets a few class attributes and draws rows with their labels in
`generate`. `@register` makes it known; nobody keeps a list.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from ...messages import is_integer

TaskClass = TypeVar("TaskClass", bound="type[Task]")
REGISTRY: dict[str, Task] = {}
TASK_KINDS = ("classification", "causal_lm")
Label = int | list[int]


@dataclass(frozen=True)
class Task:
    """A task on sequences and the values the paper (arXiv 2506.14095, experiments) trains it with.

    Attributes:
        name: name in the registry.
        vocabulary: token strings; the index is the token id.
        kind: "classification", a row has one label; or "causal_lm", a token has one: the token that belongs in its
            place and is predicted from those before it, or -100 where nothing is predicted.
        num_labels: number of classes; labels are 0..num_labels - 1.
        train_size: rows of the training split, where they are not the usual 5,000.
        num_layers, learning_rate, lr_decay, epochs: the paper's training values; lr_decay multiplies the
            learning rate after every epoch.
        separator: what `decode` puts between tokens.
        shortest: smallest `max_length` the task is defined for.
        max_length: tokens of the longest row; ValueError if below `shortest`.
    """

    name: ClassVar[str]
    vocabulary: ClassVar[tuple[str, ...]]
    num_labels: ClassVar[int]
    kind: ClassVar[str] = "classification"
    epochs: ClassVar[int]
    train_size: ClassVar[int | None] = None
    num_layers: ClassVar[int] = 5
    learning_rate: ClassVar[float] = 0.1
    lr_decay: ClassVar[float] = 0.9995
    separator: ClassVar[str] = ""
    shortest: ClassVar[int] = 1

    max_length: int = 40

    def __post_init__(self) -> None:
        if self.max_length < self.shortest:
            raise ValueError(f"{self.name}: max_length={self.max_length}, expected {self.shortest} or more")

    @property
    def min_length(self) -> int:
        """Tokens of the shortest row; all rows have max_length tokens unless a task says otherwise."""
        return self.max_length

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token, which no row contains: the one after the vocabulary."""
        return len(self.vocabulary)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, padding included."""
        return len(self.vocabulary) + 1

    def generate(self, rng: np.random.Generator, size: int) -> tuple[list[list[int]], list[Label]]:
        """Draw `size` rows: token ids, min_length..max_length of them per row, and the label or labels of each row.

        From the same state of `rng`, a smaller size gives the first rows of a larger one.
        """
        raise NotImplementedError

    def decode(self, tokens: Sequence[int]) -> str:
        """Human-readable row; padding is left out. ValueError for ids outside the vocabulary."""
        words = []
        for position, token in enumerate(tokens):
            if not is_integer(token) or not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"{self.name}: token {token!r} at position {position}; expected an integer from 0 to "
                    f"{self.pad_token_id}"
                )
            if token != self.pad_token_id:
                words.append(self.vocabulary[token])
        return self.separator.join(words)


def register(cls: TaskClass) -> TaskClass:
    """Class decorator: make the task known under `cls.name`; ValueError if another class holds that name, or for a
    kind there is not.
    """
    if cls.kind not in TASK_KINDS:
        raise ValueError(f"task {cls.name!r} has kind={cls.kind!r}; expected one of {', '.join(TASK_KINDS)}")
    known = type(REGISTRY.get(cls.name, cls()))
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"task name {cls.name!r} is taken by {known.__module__}.{known.__qualname__}")
    source_digest(cls)
    REGISTRY[cls.name] = cls()
    return cls


@functools.cache
def source_digest(cls: type[Task]) -> str | None:
    """SHA-256 of the files that define `cls`, its bases and the modules of this package that it names, or None where
    there is not a file (a REPL).

    `register` asks first, and the answer is kept: a file edited later does not describe the loaded code.
    """
    try:
        files = dict.fromkeys(inspect.getfile(base) for base in cls.__mro__ if issubclass(base, Task))
        named = filter(inspect.ismodule, vars(sys.modules[cls.__module__]).values())
        files |= dict.fromkeys(module.__file__ for module in named if module.__name__.startswith(f"{__package__}."))
        return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()
    except (KeyError, TypeError, OSError):
        return None


def stream(name: str, split: str, seed: int) -> np.random.Generator:
    """The random stream of one split of one task: streams are independent for different arguments."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{name}/{split}/{seed}".encode()).digest(), "big"))
