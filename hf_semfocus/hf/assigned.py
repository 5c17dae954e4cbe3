"""Which mechanism every layer and head attends with: ``layers`` and ``heads`` of ``config.semfocus``.

    {"k": 8, "heads": {"0-1": "bottomk_sparse:k=8"}, "layers": {"0-3": "sdpa", "11": {"5-": "topk_sparse:k=32"}}}

Keys are numbers from 0: ``"3"``, ``"0-3"``, ``"8-"`` for 8 and all after it, or ``"-2"`` for the last two. Values
are names, complete with their parameters; for layers also a table of heads. ``heads`` is for the layers that are not
in ``layers``. What neither names has the attention of the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from torch import nn

from ..mechanisms import Mechanism, names
from ..mechanisms.in_graphs import constant_in_graphs
from ..messages import did_you_mean, is_integer, shown
from .layers import place
from .parameters import settings_of
from .settings import REMEMBERED, TABLES, is_ours, resolve

HEADS = "attention_heads"
"""End of the names of attributes with numbers of query heads in configurations."""
DENSE = ("sdpa", "eager")
"""Names of full attention in layers and heads."""
SPAN = re.compile(r"(\d{1,6})(-(\d{1,6})?)?|-([1-9]\d{0,5})")
ENDLESS = 10**6
ALL = range(ENDLESS)
Plan = tuple[tuple[tuple[int, ...] | None, str | None], ...]
"""Numbers of heads (None for all), and the name of their attention (None for that of the model)."""


class Share(NamedTuple):
    """Heads of a layer that attend alike.

    Attributes:
        heads: their numbers; None for all.
        mechanism: what they attend with.
        backend: the backend that is asked for, or ``auto``.
    """

    heads: tuple[int, ...] | None
    mechanism: Mechanism
    backend: str


def shares_of(layer: nn.Module, spec: str, heads: int | None) -> tuple[Share, ...]:
    """What an attention layer attends with.

    Args:
        layer: the attention module.
        spec: the name of the model's attention.
        heads: number of query heads; if None, every attention of the layer is returned once, for all heads.

    Raises:
        ValueError: the configuration's parameters do not fit the mechanism, or its tables do not fit the model.
    """
    settings = settings_of(layer)
    base = resolve(spec, settings)
    if not settings or not any(table in settings for table in TABLES):
        return (Share(None, *base),)
    tables = [_frozen(settings.get(table, {})) for table in TABLES]
    heads = None if heads is None else int(heads)
    plan = _plan(*tables, *place(layer), heads, _most_heads(layer) if heads is None else heads)
    found = tuple([Share(numbers, *(_named(name, base[1]) if name else base)) for numbers, name in plan])
    if len(found) > 1 and (owners := [share.mechanism.name for share in found if share.mechanism.owns_state()]):
        raise ValueError(f"{owners[0]} has trainable parameters for all heads; expected it for whole layers")
    return found


def _most_heads(layer: nn.Module) -> int | None:
    """The most query heads that its configuration gives a layer, before a call shows their number; None if unknown.

    A model of two stacks or of two kinds of layers may have a number for each, such as ``decoder_attention_heads``.
    """
    config = getattr(layer, "config", None)
    others = [name for name in vars(config or object) if name.endswith(HEADS) and "key_value" not in name]
    found = [getattr(config, name, None) for name in (f"num_{HEADS}", *others)]  # the first may be another name's
    return max((count for count in found if is_integer(count)), default=None)


def _frozen(table: Any, depth: int = 2) -> Any:
    """A table as tuples, which can be a key of a cache."""
    if isinstance(table, Mapping) and depth:
        return tuple([(key, _frozen(value, depth - 1)) for key, value in table.items()])
    return table


@constant_in_graphs
def _plan(*args: Any) -> Plan:
    """:func:`_planned`, remembered where it can be, with the tables in its errors.

    Raises:
        ValueError: an entry is not valid, or not for this model.
    """
    try:
        try:
            return _planned(*args)
        except TypeError:  # not hashable
            return _planned.__wrapped__(*args)
    except ValueError as error:
        tables = {name: _thawed(table) for name, table in zip(TABLES, args, strict=False) if table}
        raise ValueError(f"{error} (config.semfocus has {shown(tables)})") from None


def _thawed(table: Any) -> Any:
    return {key: _thawed(value) for key, value in table} if isinstance(table, tuple) else table


@lru_cache(maxsize=REMEMBERED)
def _planned(
    layers: Any,
    heads: Any,
    layer: int,
    depth: int | None,
    deepest: int | None,
    num_heads: int | None,
    most_heads: int | None,
) -> Plan:
    """The plan of the layer with number ``layer`` of a stack of ``depth``, from both tables."""
    rows = [
        (
            span,
            _names(where, entry, num_heads, most_heads) if isinstance(entry, tuple) else {ALL: _checked(where, entry)},
        )
        for where, span, entry in _spans("layers", layers, depth, deepest)
    ]
    mine = next((row for span, row in rows if layer in span), _names("heads", heads, num_heads, most_heads))
    if num_heads is None:
        return tuple((None, name) for name in dict.fromkeys([*mine.values(), *([] if ALL in mine else [None])]))
    groups: dict[str | None, list[int]] = {}
    for head in range(num_heads):
        groups.setdefault(next((name for span, name in mine.items() if head in span), None), []).append(head)
    return tuple((None if len(groups) == 1 else tuple(numbers), name) for name, numbers in groups.items())


def _names(where: str, table: Any, count: int | None, most: int | None) -> dict[range, str]:
    """The names in a table of heads."""
    return {span: _checked(inner, name) for inner, span, name in _spans(where, table, count, most)}


def _spans(where: str, table: Any, count: int | None, most: int | None) -> list[tuple[str, range, Any]]:
    """Where every entry of a table is, its numbers, and the entry.

    ``count`` is the number of layers of a stack or of heads, ``most`` that of the deepest stack, whose numbers are
    allowed.

    Raises:
        ValueError: a key is not a number or a range, is out of range, or overlaps another.
    """
    if not isinstance(table, tuple):
        raise ValueError(f"{where}: {shown(table)} is not allowed; expected a dict such as {{'0-3': 'sdpa'}}")
    found: list[tuple[str, range, Any]] = []
    for key, entry in table:
        match = SPAN.fullmatch(key) if isinstance(key, str) else None
        if match is None or (match[3] and int(match[3]) < int(match[1])):
            raise ValueError(f"{where}: {shown(key)} is not allowed; expected a string: '3', '0-3', '8-' or '-2'")
        end = count or ENDLESS
        first = max(0, end - int(match[4])) if match[4] else int(match[1])
        last = int(match[3]) if match[3] else max(first, end - 1) if match[2] or match[4] else first
        # the number from the end of a stack whose size is not known here says how many there must be
        highest = int(match[4]) - 1 if match[4] else max(first, int(match[3] or 0))
        if most is not None and highest >= most:
            raise ValueError(f"{where}: {key!r} is not in the model; expected numbers from 0 to {most - 1}")
        for _, other, _ in found:
            if first < other.stop and other.start <= last:
                raise ValueError(f"{where}: {max(first, other.start)} is in two entries; expected every number once")
        found.append((f"{where}: {key}", range(first, last + 1), entry))
    return found


def _checked(where: str, name: Any) -> str:
    """``name``, if it is one.

    Raises:
        ValueError: it is not the name of an attention.
    """
    if not isinstance(name, str):
        raise ValueError(f"{where}: {shown(_thawed(name))} is not allowed; expected a name such as 'topk_sparse:k=8'")
    if is_ours(name):
        resolve(name, None)
    elif name not in DENSE:
        choices = [*DENSE, *names()]
        near = did_you_mean(name.partition(":")[0], choices)
        raise ValueError(f"{where}: unknown attention {shown(name)}{near}; expected one of {', '.join(choices)}")
    return name


def _named(name: str, backend: str) -> tuple[Mechanism, str]:
    """Mechanism and backend of an entry; full attention takes a formula that the model asks for, and no other."""
    if name not in DENSE:
        return resolve(name, None)[0], backend
    return Mechanism(), "eager" if name == "eager" else backend if backend in ("eager", "chunked") else "auto"
