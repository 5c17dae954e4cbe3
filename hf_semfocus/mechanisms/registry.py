"""The registry of mechanisms, and their construction from names and parameters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, TypeVar

from ..messages import did_you_mean, shown
from .base import Mechanism
from .declare import fields, parameters
from .in_graphs import constant_in_graphs
from .union import union

_REGISTRY: dict[str, type[Mechanism]] = {}
_LISTENERS: list[Callable[[str], None]] = []
M = TypeVar("M", bound=type[Mechanism])

TAKEN = ("eager", "full", "auto")
RESERVED = ("flash", "flex_attention", "sdpa")


def register(name: str, *, overwrite: bool = False) -> Callable[[M], M]:
    """Class decorator: register a mechanism as ``name``, and thereby as an ``attn_implementation``.

    A class of the same module and qualified name replaces the earlier one, as when a notebook cell runs again.

    Args:
        name: ASCII letters, digits, ``_``, ``-`` and ``.``, starting with a letter.
        overwrite: also replace a mechanism from elsewhere.

    Raises:
        ValueError: the name is invalid or taken, Transformers gives it a meaning of its own, or the class is not a
            valid mechanism.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"mechanism name {shown(name)} is not allowed; expected letters, digits, '_', '-' and '.', a letter first"
        )
    if part := next((part for part in RESERVED if part in name), name if name in TAKEN else None):
        raise ValueError(f"mechanism name {name!r} contains {part!r}, which has a meaning already; expected another")

    def add(cls: M) -> M:
        _check(name, cls)
        old = _REGISTRY.get(name)
        if old is not None and not overwrite and _origin(old) != _origin(cls):
            raise ValueError(
                f"mechanism {name!r} is registered already, by {_origin(old)}; expected another name, or "
                f"register({name!r}, overwrite=True)"
            )
        for listener in _LISTENERS:
            listener(name)
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return add


def on_register(listener: Callable[[str], None]) -> None:
    """Call ``listener`` with every name that is registered from now on, or registered anew."""
    if listener not in _LISTENERS:
        _LISTENERS.append(listener)


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _check(name: str, cls: Any) -> None:
    """Refuse a class that is not a valid mechanism.

    Raises:
        ValueError: names what is wrong and what was expected.
    """

    def refuse(found: str, expected: str) -> None:
        raise ValueError(
            f"mechanism {name!r}: {getattr(cls, '__qualname__', shown(cls))} {found}; expected {expected}"
        )

    if not (isinstance(cls, type) and issubclass(cls, Mechanism)):
        refuse("is not a mechanism", "a subclass of hf_semfocus.mechanisms.Mechanism")
    if vars(cls).get("name", name) != name and _REGISTRY.get(cls.name) is cls:
        refuse(f"is registered as {cls.name!r}", "a subclass of it for another name")
    if all(getattr(cls, slot) is getattr(Mechanism, slot) for slot in ("pattern", "priority", "choose", "normalize")):
        refuse("fills no slot, so that every query keeps all keys", "pattern, priority, choose or normalize")
    if any(isinstance(value, dataclasses.Field) for value in vars(cls).values()):
        refuse("is not a dataclass", "@dataclass(frozen=True, kw_only=True) right above the class")
    if bare := [field for field, of in fields(cls).items() if "check" not in of.metadata]:
        refuse(f"has parameters that nothing checks, {', '.join(bare)}", "count(...), real(...) or choice(...)")
    if cls.differentiable_selection and (cls.priority is Mechanism.priority or cls.normalize is Mechanism.normalize):
        refuse("has differentiable_selection but not both slots that it is for", "priority and normalize")
    if cls.priority is not Mechanism.priority and not hasattr(cls, "k"):
        refuse("has a priority but does not say how many keys it keeps", "a parameter k")


def names() -> list[str]:
    """Names of all registered mechanisms."""
    return sorted(_REGISTRY)


def base_name(spec: str) -> str:
    """A mechanism's name without its parameters; for a union the names of its parts, joined by ``+``."""
    return "+".join(part.partition(":")[0] for part in _parts(spec))


def exists(spec: str) -> bool:
    """Whether ``spec`` is the name of a mechanism, or of several of a union, with or without parameters."""
    return all(name in _REGISTRY for name in base_name(spec).split("+"))


def _parts(spec: str) -> list[str]:
    return re.split(r"\+(?=[A-Za-z])", spec)  # not at 1e+3


def get(name: str) -> type[Mechanism]:
    """The mechanism class of ``name``; for ``a+b`` that of the union.

    Raises:
        ValueError: no mechanism has that name, or there is no such union.
    """
    if len(_parts(name)) > 1:
        return _union(name)
    if name not in _REGISTRY:
        near = did_you_mean(name, names())
        raise ValueError(f"unknown mechanism {shown(name)}{near}; expected one of {', '.join(names())}")
    return _REGISTRY[name]


@constant_in_graphs
def _union(name: str) -> type[Mechanism]:
    return union(tuple(map(get, _parts(name))))


def parse(spec: str) -> tuple[str, dict[str, int | float | str]]:
    """Split ``"banded_sparse:window=8,edge=cut"`` into the name and its parameters; those of a union are joined.

    Raises:
        ValueError: the name is unknown, the part after the colon is not ``name=value[,name=value...]``, or parts of a
            union give a parameter two values.
    """
    get(base_name(spec))
    joined: dict[str, int | float | str] = {}
    for part in _parts(spec):
        _, params = _parse(part)
        if differ := [key for key in params if joined.get(key, params[key]) != params[key]]:
            raise ValueError(f"{shown(spec)} gives {differ[0]} two values, but parts share it; expected one")
        joined |= params
    return base_name(spec), joined


def _parse(spec: str) -> tuple[str, dict[str, int | float | str]]:
    name, colon, rest = spec.partition(":")
    params: dict[str, int | float | str] = {}
    for item in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value) or key in params:
            known = f", with parameters {', '.join(parameters(_REGISTRY[name]))}" if name in _REGISTRY else ""
            raise ValueError(
                f"cannot read {shown(item)} in {shown(spec)}; expected NAME:param=value[,param=value...]{known}"
                f"{', each once' if key in params else ''}"
            )
        params[key] = _value(value)
    return name, params


def _value(text: str) -> int | float | str:
    """The value that a parameter's text stands for."""
    if re.fullmatch(r"-?\d{1,20}", text):
        return int(text)
    is_real = re.fullmatch(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) and not text.lstrip("-").isdecimal()
    return float(text) if is_real else text


def build(spec: str, **params: Any) -> Mechanism:
    """Make a mechanism from its name or ``NAME:param=value,...``; the string takes precedence over ``params``.

    Raises:
        ValueError: unknown name, a parameter the mechanism does not have, or a value it does not allow.
    """
    return _build(spec, params)


@constant_in_graphs
def _build(spec: str, params: dict[str, Any]) -> Mechanism:
    name, stated = parse(spec)
    cls = get(name)
    params = {**params, **stated}
    for key in params:
        if key not in parameters(cls):
            owners = [other for other in names() if key in parameters(_REGISTRY[other])]
            hint = f" ({shown(key)} belongs to {', '.join(owners)})" if owners else did_you_mean(key, parameters(cls))
            raise ValueError(
                f"{name} has no parameter {shown(key)}{hint}; expected some of {', '.join(parameters(cls))}"
            )
    if len(given := [key for key in cls.alternatives if key in params]) > 1:
        both = " and ".join(f"{key}={shown(params[key])}" for key in given)
        raise ValueError(f"{name} takes one of {' or '.join(cls.alternatives)}; expected one, not {both}")
    return cls(**params)
