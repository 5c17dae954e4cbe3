"""Names of attentions, their parameters, and the mechanisms they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from transformers import PreTrainedConfig

from .. import backends
from ..mechanisms import Mechanism, base_name, build, exists, get, parse
from ..mechanisms.in_graphs import constant_in_graphs, fixed
from ..messages import shown

REMEMBERED = 256
"""Mechanisms in the cache, so that a step does not build them again."""
TABLES = ("layers", "heads")
"""Names by layer and by head in ``config.semfocus``, beside the parameters; see :mod:`.assigned`."""
DEEPEST = 4
"""Levels of nested parts that a model may have."""


def is_ours(name: Any) -> bool:
    """Whether ``name`` (an ``attn_implementation``) is a mechanism, with or without parameters."""
    return isinstance(name, str) and exists(name)


def has_ours(name: Any, depth: int = DEEPEST) -> bool:
    """Whether an ``attn_implementation`` is one of ours, or a dict of names by part that has one of ours."""
    if isinstance(name, dict):
        return depth > 0 and any(has_ours(part, depth - 1) for part in name.values())
    return is_ours(name)


def check_name(value: Any, depth: int = 8) -> None:
    """Refuse what cannot be an ``attn_implementation``: a name, None, or a dict of these by sub-configuration.

    Raises:
        ValueError: shows the value and what was expected.
    """
    if isinstance(value, dict) and depth:
        for part in value.values():
            check_name(part, depth - 1)
    elif value is not None and not (isinstance(value, str) and value.isprintable()):
        raise ValueError(
            f"attn_implementation={shown(value)} is not allowed; expected a name such as 'topk_sparse:k=8', or a dict "
            "of names by sub-configuration"
        )
    elif isinstance(value, str) and value.startswith("paged|") and is_ours(value.removeprefix("paged|")):
        raise ValueError(f"attn_implementation={shown(value)} is not allowed; expected it without 'paged|'")


def check_once(name: Any, settings: Any) -> None:
    """Refuse a name and parameters that contradict each other.

    Raises:
        ValueError: shows both.
    """
    in_name = stated(name)
    rivals = alternatives(name, in_name) if in_name else set()
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        if value != in_name.get(key, value) or (key in rivals and key not in in_name):
            raise ValueError(f"{shown(name)} contradicts {key}={shown(value)}; expected it once")


def resolve(spec: str, settings: Mapping[str, Any] | None) -> tuple[Mechanism, str]:
    """Mechanism and backend of an attention name, with the parameters in ``settings`` that the name does not state.

    The attention of layers and heads that :data:`TABLES` does not name otherwise.

    Raises:
        ValueError: ``settings`` is not a mapping, or names a parameter or value the mechanism does not have.
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise ValueError(f"config.semfocus={shown(settings)}; expected a dict of parameters such as {{'k': 8}}")
    stored = {key: value for key, value in (settings or {}).items() if key not in TABLES}
    items = tuple((key, fixed(value), type(value)) for key, value in stored.items())
    return _made(spec, items, get(base_name(spec)))


@constant_in_graphs
def _made(spec: str, items: tuple[tuple[Any, Any, type], ...], cls: type[Mechanism]) -> tuple[Mechanism, str]:
    try:
        return _make(spec, items, cls)
    except TypeError:  # not hashable
        return _make.__wrapped__(spec, items, cls)


@lru_cache(maxsize=REMEMBERED)
def _make(spec: str, items: tuple[tuple[Any, Any, type], ...], cls: type[Mechanism]) -> tuple[Mechanism, str]:
    settings = {key: value for key, value, _ in items}
    try:
        if strange := [key for key in settings if not isinstance(key, str)]:
            raise ValueError(f"{cls.name} has no parameter {shown(strange[0])}; expected a string")
        params = {key: value for key, value in settings.items() if key != "backend"}
        return build(spec, **params), backends.check(settings.get("backend", "auto"))
    except ValueError as error:
        raise ValueError(f"{error} (config.semfocus={shown(settings)})" if settings else str(error)) from None


def alternatives(name: str, given: Mapping[str, Any]) -> set[str]:
    """Parameters of which at most one can be given, if one of them is."""
    names = get(base_name(name)).alternatives
    return set(names) if any(key in given for key in names) else set()


def stated(name: Any) -> dict[str, int | float | str]:
    """The parameters that a name of ours states; empty for any other or unreadable name."""
    try:
        return parse(name)[1] if is_ours(name) else {}
    except ValueError:  # raises when a model is made
        return {}


def names_in(
    config: PreTrainedConfig, name_of: Callable[[PreTrainedConfig], str] = lambda config: config._attn_implementation
) -> str | dict[str, Any] | None:
    """Our names in a configuration: one for all, or a dict by part; None if there is none."""
    own = name_of(config) if is_ours(config._attn_implementation) else None
    parts = {key: getattr(config, key, None) for key in config.sub_configs}
    inner = {key: names_in(part, name_of) for key, part in parts.items() if part is not None}
    return own if all(name == own for name in inner.values()) else {"": own, **inner}
