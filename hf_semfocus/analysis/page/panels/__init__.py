"""The panels of the page: every module of this package registers one, and nobody keeps a list."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
