"""What a mechanism is, and the registry that gives it its name everywhere.

A mechanism says which keys a query keeps and how kept scores become weights. It fills up to three slots, and
back ends apply them in this order to the keys a query may see (after causality and padding):

    pattern(at)             static: a predicate on positions
    priority(scores, at)    selection: of the keys left, the ``k`` of highest priority stay
    normalize(scores, keep) kept scores -> weights, softmax unless overridden

A static pattern that also says its ``reach`` (and which few queries it ``sees_all`` for) is computed from lists of
keys instead of all pairs. Every slot is row-local: what one query keeps never depends on another query. So any back
end may work on any chunk of queries, and decoding token by token equals the uncached forward.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ..positions import Positions
from ..selection import highest


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Base of all mechanisms: a frozen dataclass whose fields are the parameters, checked when it is made.

    Raises:
        ValueError: a parameter is not what its field asks for.
    """

    name: ClassVar[str] = "full"
    by_score: ClassVar[int | None] = None
    """1 or -1 if the priority is exactly that times the score, which kernels can select by; None otherwise."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            checked = field.metadata["check"](f"{self.name}: {field.name}", getattr(self, field.name))
            object.__setattr__(self, field.name, checked)

    @property
    def positional(self) -> bool:
        """Whether kept keys depend on positions, which have no meaning across two sequences."""
        return type(self).pattern is not Mechanism.pattern

    @property
    def selects(self) -> bool:
        """Whether this mechanism chooses ``k`` keys by priority."""
        return type(self).priority is not Mechanism.priority

    @property
    def spec(self) -> str:
        """The mechanism with all its parameters as one string, e.g. ``topk_sparse:k=8``."""
        stated = ",".join(f"{name}={getattr(self, name)}" for name in parameters(type(self)))
        return f"{self.name}:{stated}" if stated else self.name

    def anchored(self, causal: bool) -> bool:
        """Whether kept keys depend on where the sequence starts or ends, not on distances or scores alone."""
        return self.positional

    def pattern(self, at: Positions) -> Tensor | None:
        """Static pattern: bool, broadcastable to ``[batch, heads, queries, keys]``; None keeps all."""
        return None

    def reach(self, at: Positions) -> Tensor | None:
        """Positions that ``pattern`` looks at, ``[..., queries, few]``; the others it keeps for no query.

        In any order, repeated and out of range as may be: only those that ``pattern`` keeps count. None if a
        query may keep any number of keys. It makes static patterns cost O(n few) rather than O(n²); ``at.key`` is
        not to be used.
        """
        return None

    def sees_all(self, at: Positions) -> Tensor | None:
        """The few queries that keep every key, which ``reach`` need not cover: bool ``[..., queries, 1]``."""
        return None

    def priority(self, scores: Tensor, at: Positions) -> Tensor | None:
        """Priority of every key, broadcastable to ``scores``; None for no selection."""
        return None

    def normalize(self, scores: Tensor, keep: Tensor) -> Tensor:
        """Softmax over the kept keys; exact zeros elsewhere, so a row that keeps nothing is all zeros."""
        drop = ~keep
        return scores.masked_fill(drop, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(drop, 0.0)

    def keep(self, scores: Tensor, allowed: Tensor, at: Positions | None) -> Tensor:
        """Which of the ``allowed`` keys every query keeps: bool, broadcastable to ``scores``.

        ``at`` may be None for a mechanism that is not positional.
        """
        with torch.no_grad():
            if (pattern := self.pattern(at)) is not None:
                allowed = allowed & pattern
            if (priority := self.priority(scores, at)) is not None:
                allowed = highest(priority, allowed, self.k)
        return allowed


def count(default: int, meaning: str, minimum: int = 1) -> Any:
    """Declare a dataclass field that holds an integer of at least ``minimum``."""

    def check(what: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
            raise ValueError(f"{what}={value!r} is not allowed; expected an integer of at least {minimum}")
        return int(value)

    return dataclasses.field(default=default, metadata={"check": check, "meaning": meaning})


def choice(default: str, options: Sequence[str], meaning: str) -> Any:
    """Declare a dataclass field that holds one of ``options``."""

    def check(what: str, value: Any) -> str:
        if value not in options:
            raise ValueError(f"{what}={value!r} is not allowed; expected one of {', '.join(map(repr, options))}")
        return value

    return dataclasses.field(default=default, metadata={"check": check, "meaning": meaning})


_REGISTRY: dict[str, type[Mechanism]] = {}
M = TypeVar("M", bound=type[Mechanism])


def register(name: str) -> Callable[[M], M]:
    """Class decorator: make ``name`` available as a mechanism, hence as an ``attn_implementation``.

    Raises:
        ValueError: the name is taken, or Transformers would read a meaning of its own into it.
    """
    if name in _REGISTRY:
        raise ValueError(f"mechanism {name!r} is registered already, by {_REGISTRY[name].__qualname__}")
    reserved = [part for part in ("flash", "flex_attention", "sdpa", "paged|", "/", ":") if part in name]
    if reserved:
        raise ValueError(f"mechanism name {name!r} contains {reserved[0]!r}, which Transformers gives a meaning")

    def add(cls: M) -> M:
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return add


def names() -> list[str]:
    """Names of all registered mechanisms."""
    return sorted(_REGISTRY)


def get(name: str) -> type[Mechanism]:
    """The mechanism class of ``name``.

    Raises:
        ValueError: no mechanism has that name.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown mechanism {name!r}; expected one of {', '.join(names())}")
    return _REGISTRY[name]


def parameters(cls: type[Mechanism]) -> list[str]:
    """Names of the parameters of a mechanism class, its own before those it inherits."""
    return [name for base in cls.__mro__ for name in vars(base).get("__annotations__", ()) if name in fields(cls)]


def fields(cls: type[Mechanism]) -> dict[str, dataclasses.Field]:
    """Declarations of the parameters of a mechanism class: default, and metadata with ``meaning``."""
    return {field.name: field for field in dataclasses.fields(cls)}


def parse(spec: str) -> tuple[str, dict[str, int | str]]:
    """Split ``"banded_sparse:window=8,edge=cut"`` into the name and its parameters.

    Raises:
        ValueError: the name is unknown or the part after the colon is not ``name=value[,name=value...]``.
    """
    name, colon, rest = spec.partition(":")
    get(name)
    params: dict[str, int | str] = {}
    for item in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value) or key in params:
            raise ValueError(f"cannot read {item!r} in {spec!r}; expected NAME:param=value[,param=value...]")
        params[key] = int(value) if value.lstrip("-").isdecimal() else value
    return name, params


def build(spec: str, **params: Any) -> Mechanism:
    """Make a mechanism from its name or ``NAME:param=value,...``; what the string says wins over ``params``.

    Raises:
        ValueError: unknown name, a parameter the mechanism does not have, or a value it does not allow.
    """
    name, stated = parse(spec)
    cls = get(name)
    params = {**params, **stated}
    for key in params:
        if key not in parameters(cls):
            owners = [other for other in names() if key in parameters(_REGISTRY[other])]
            hint = f" ({key!r} belongs to {', '.join(owners)})" if owners else ""
            raise ValueError(f"{name} has no parameter {key!r}{hint}; expected some of {', '.join(parameters(cls))}")
    return cls(**params)
