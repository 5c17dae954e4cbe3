"""The mechanisms: every module of this package registers its own; there is no other list."""

from importlib import import_module
from pkgutil import iter_modules

from .base import Mechanism
from .declare import choice, count, fields, parameters, real
from .registry import base_name, build, exists, get, names, on_register, parse, register

__all__ = [
    "Mechanism",
    "base_name",
    "build",
    "choice",
    "count",
    "exists",
    "fields",
    "get",
    "names",
    "on_register",
    "parameters",
    "parse",
    "real",
    "register",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
