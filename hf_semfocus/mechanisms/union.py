"""Unions of mechanisms: the keys of static patterns always, and those of a selection among the rest.

``banded_sparse:window=16+topk_sparse:k=8`` keeps a window, and the 8 highest-scoring keys outside of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..attention.positions import Positions
from ..attention.problem import Problem
from .base import Mechanism
from .declare import fields, parameters
from .select import Select


@dataclass(frozen=True, kw_only=True)
class Union(Mechanism):
    """Base of the unions, whose parameters are those of their parts; parts share those of equal name.

    Attributes:
        kinds: classes of the parts.
        parts: the parts.
        patterns: those of them that are static.
        selection: the one that is not; None if all are.
        static: what the patterns keep beside the selection; None without a selection.
    """

    kinds: ClassVar[tuple[type[Mechanism], ...]] = ()

    def __post_init__(self):
        super().__post_init__()
        parts = [kind(**{name: getattr(self, name) for name in parameters(kind)}) for kind in self.kinds]
        set_once = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        set_once("parts", tuple(parts))
        set_once("patterns", tuple(part for part in parts if not part.selects))
        set_once("selection", next((part for part in parts if part.selects), None))
        if self.selects:
            kinds = tuple(map(type, self.patterns))
            params = {name: getattr(self, name) for kind in kinds for name in parameters(kind)}
            set_once("static", (union(kinds) if len(kinds) > 1 else kinds[0])(**params))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _again, (self.kinds, {name: getattr(self, name) for name in parameters(type(self))})

    @property
    def spec(self) -> str:
        return "+".join(part.spec for part in self.parts)

    @property
    def positional(self) -> bool:
        return True

    @property
    def selects(self) -> bool:
        return self.selection is not None

    @property
    def redraws(self) -> bool:
        return self.selects and self.selection.redraws

    @property
    def by_layer(self) -> bool:
        return any(part.by_layer for part in self.parts)

    def anchored(self, causal: bool) -> bool:
        return any(part.anchored(causal) for part in self.parts)

    def budget(self, length: int) -> int | None:
        budgets = [part.budget(length) for part in self.parts]
        return None if None in budgets else min(sum(budgets), length)

    def pattern(self, at: Positions) -> Tensor | None:
        return None if self.selects else self._always(at)

    def reach(self, at: Positions) -> Tensor | None:
        near = [part.reach(at) for part in self.patterns]
        if self.selects or any(each is None for each in near):
            return None
        shape = torch.broadcast_shapes(*(each.shape[:-1] for each in near))
        return torch.cat([each.expand(*shape, -1) for each in near], -1)

    def sees_all(self, at: Positions) -> Tensor | None:
        found = [rows for part in self.patterns if (rows := part.sees_all(at)) is not None]
        return reduce(torch.logical_or, found) if found else None

    def choose(self, scores: Tensor, allowed: Tensor, at: Positions) -> Tensor:
        if not self.selects:
            return allowed
        always = self._always(at)
        return (allowed & always) | self.selection.choose(scores, allowed & ~always, at)

    def asks(self, problem: Problem) -> int | None:
        return self.selection.asks(problem) if self.selects and not self.selection.positional else None

    def find(self, problem: Problem, select: Select) -> Tensor:
        return self.selection.find(problem.among(~self._always(problem.positions())), select)

    def _always(self, at: Positions) -> Tensor:
        return reduce(torch.logical_or, [part.kept_by_position(at) for part in self.patterns])


@lru_cache(maxsize=256)
def union(kinds: tuple[type[Mechanism], ...]) -> type[Union]:
    """The class of the unions of these mechanisms.

    Raises:
        ValueError: a mechanism is repeated, has weights of its own, or is a second selection.
    """
    name = "+".join(kind.name for kind in kinds)
    if strange := [kind.name for kind in kinds if kind.owns_state() or kind.normalize is not Mechanism.normalize]:
        raise ValueError(f"{name}: {strange[0]} has weights of its own; expected mechanisms that keep keys")
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"{name}: a mechanism is repeated; expected each once")
    if len(selections := [kind.name for kind in kinds if kind().selects]) > 1:
        raise ValueError(f"{name}: {' and '.join(selections)} select keys; expected one beside static patterns")
    declared = {field.name: field for kind in kinds for field in fields(kind).values()}
    namespace = {
        "kinds": kinds,
        "name": name,
        "sized_by": next((kind.sized_by for kind in kinds if kind.name in selections), kinds[0].sized_by),
        "alternatives": next((kind.alternatives for kind in kinds if kind.alternatives), ()),
        "__doc__": f"Every query keeps {_joined(kinds)}.",
        "__module__": __name__,
    }
    made = [
        (key, field.type, dataclasses.field(default=field.default, metadata=field.metadata))
        for key, field in declared.items()
    ]
    return dataclasses.make_dataclass(name, made, bases=(Union,), namespace=namespace, frozen=True, kw_only=True)


def _joined(kinds: Sequence[type[Mechanism]]) -> str:
    """The first sentences of what they say of themselves, in one."""
    sentences = [" ".join(kind.__doc__.split("\n\n")[0].split()) for kind in kinds]
    return ", and ".join(words.removeprefix("Every query keeps ").rstrip(".") for words in sentences)


def _again(kinds: tuple[type[Mechanism], ...], params: dict[str, Any]) -> Union:
    return union(kinds)(**params)
