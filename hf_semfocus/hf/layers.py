"""Attention layers of a model, recognized by their code: with the attention interface, or code of their own."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

from torch import nn
from transformers import PreTrainedModel

INTERFACE = "ALL_ATTENTION_FUNCTIONS"
OWN_ATTENTION = re.compile(r"softmax|scaled_dot_product|flash_attn", re.IGNORECASE)
CLASS_TABLE = re.compile(r"\b[A-Z0-9_]+_ATTENTION_CLASSES\[")
PLACE = "_semfocus_place"
"""Attribute of an attention layer that holds what :func:`place` returns."""
LEFT_ALONE = {
    "PoolingHead": "one pooled query",
    "AriaCrossAttention": "learned queries that sum up a picture",
    "DeformableAttention": "weights of sampled points",
    "GatedAttention": "weights of features",
    "AttentionResidual": "weights of earlier layers",
}
"""Parts of names of classes whose attention is not between the tokens of a sequence, and what it is."""


def attention_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The innermost modules that attend, with their paths."""
    for path, module in model.named_modules():
        if _attends(type(module)) and not any(_attends(type(m)) for m in module.modules() if m is not module):
            yield path, module


def number_layers(model: nn.Module, whole: bool = True) -> None:
    """Note on every attention layer its :func:`place`; of a ``model`` that is not whole, the number alone.

    The number is its ``layer_idx``, or the first number in its path within its model. The layers of the innermost
    model, such as an encoder, are a stack.
    """
    models = [f"{path}." if path else "" for path, part in model.named_modules() if isinstance(part, PreTrainedModel)]
    numbers: dict[nn.Module, int] = {}
    stacks: dict[nn.Module, str] = {}
    for path, module in model.named_modules():
        if uses_interface(type(module)) and not isinstance(module, PreTrainedModel):
            stacks[module] = stack = max(filter(path.startswith, models), key=len, default="")
            first = next((int(part) for part in path.removeprefix(stack).split(".") if part.isdecimal()), 0)
            index = getattr(module, "layer_idx", None)
            numbers[module] = index if isinstance(index, int) else first
    depths: dict[str, int] = {}
    for module, number in numbers.items():
        depths[stacks[module]] = max(depths.get(stacks[module], 0), number + 1)
    for module, number in numbers.items():
        setattr(module, PLACE, (number, *((depths[stacks[module]], max(depths.values())) if whole else (None, None))))


def place(layer: nn.Module) -> tuple[int, int | None, int | None]:
    """The number of an attention layer from 0, and the numbers of layers of its stack and of the model's deepest.

    The latter two are None where they are unknown.
    """
    return getattr(layer, PLACE, None) or (getattr(layer, "layer_idx", None) or 0, None, None)


def is_leaf(module: nn.Module) -> bool:
    """Whether ``module`` is attention of any kind, by its name or code, and holds no other attention."""

    def attends(m: nn.Module) -> bool:
        return "Attention" in type(m).__name__ or uses_interface(type(m))

    return attends(module) and not any(attends(m) for m in module.modules() if m is not module)


@cache
def uses_interface(cls: type[nn.Module]) -> bool:
    """Whether a class uses the attention interface, itself or through a function of its file."""
    text = _all_text(cls)
    if INTERFACE in text:
        return True
    called = [getattr(sys.modules.get(cls.__module__), name, None) for name in re.findall(r"\b(\w+)\(", text)]
    return any(INTERFACE in _text(function) for function in called if inspect.isfunction(function))


def left_alone(model: nn.Module, path: str) -> str | None:
    """What a layer's own attention is, if it is not between tokens; else None."""
    names = [type(model.get_submodule(path)).__name__]
    if names == [nn.MultiheadAttention.__name__]:
        names = [type(model.get_submodule(path.rpartition(".")[0])).__name__]
    return next((meaning for part, meaning in LEFT_ALONE.items() for name in names if part in name), None)


@cache
def table_user(cls: type[nn.Module]) -> type[nn.Module] | None:
    """The class that ``cls`` builds and that takes its attention from a table in its own file, if any."""
    seen, left = {cls}, [cls]
    while left:
        builder = left.pop()
        for base in builder.__mro__:
            if "__init__" not in vars(base) or not CLASS_TABLE.search(_text(sys.modules.get(base.__module__))):
                continue
            text = _text(base.__init__)
            if CLASS_TABLE.search(text):
                return builder
            named = [getattr(sys.modules[base.__module__], name, None) for name in re.findall(r"\b[A-Z]\w+", text)]
            parts = {part for part in named if inspect.isclass(part) and issubclass(part, nn.Module)} - seen
            seen |= parts
            left += parts
    return None


def _attends(cls: type[nn.Module]) -> bool:
    return not issubclass(cls, PreTrainedModel) and (uses_interface(cls) or computes_attention(cls))


@cache
def computes_attention(cls: type[nn.Module]) -> bool:
    """Whether a class computes attention weights itself."""
    return issubclass(cls, nn.MultiheadAttention) or (
        "Attention" in cls.__name__ and bool(OWN_ATTENTION.search(_all_text(cls)))
    )


def _all_text(cls: type[nn.Module]) -> str:
    return "".join(
        _text(base) for base in cls.__mro__ if base.__module__.partition(".")[0] not in ("torch", "builtins")
    )


@lru_cache(maxsize=4096)
def _text(thing: Any) -> str:
    if inspect.isclass(thing) and (text := _classes(thing.__module__).get(thing.__qualname__)) is not None:
        return text
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return ""


@lru_cache(maxsize=256)
def _classes(module: str) -> dict[str, str]:
    """The source of every class of a file, which is parsed once."""
    try:
        text = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return {}
    lines = text.splitlines(keepends=True)
    found = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    return {node.name: "".join(lines[node.lineno - 1 : node.end_lineno]) for node in found}
