"""Wrap a method of another library, now or when it is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.machinery import ModuleSpec
from inspect import getattr_static
from types import ModuleType
from typing import Any


def wrap(cls: type, name: str, around: Callable[..., Any]) -> None:
    """Call ``around(original, self, ...)`` in place of a method. Idempotent.

    For a class method, ``self`` is the class.
    """
    found = getattr_static(cls, name)
    original = getattr(found, "__func__", found)
    if getattr(original, "_semfocus", False):
        return

    @wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(original, self, *args, **kwargs)

    wrapper._semfocus = True
    setattr(cls, name, classmethod(wrapper) if isinstance(found, classmethod) else wrapper)


def wrap_setter(cls: type, name: str, around: Callable[..., None]) -> None:
    """Call ``around(original, self, value)`` when a property is set. Idempotent."""
    found = getattr_static(cls, name)
    if getattr(found.fset, "_semfocus", False):
        return

    @wraps(found.fset)
    def setter(self: Any, value: Any) -> None:
        around(found.fset, self, value)

    setter._semfocus = True
    setattr(cls, name, found.setter(setter))


def when_imported(name: str, action: Callable[[], None]) -> None:
    """Call ``action`` once the module ``name`` is imported, now if it already is; ``action`` must be idempotent."""
    if name in sys.modules:
        action()
    elif not any(isinstance(finder, _AfterImport) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport(name, action))


class _AfterImport:
    """A finder that delegates for one module to the others, and makes its loader call ``action`` at the end."""

    def __init__(self, name: str, action: Callable[[], None]):
        self.name, self.action = name, action

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.name:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                self.action()

            spec.loader.exec_module = exec_module
        return spec
