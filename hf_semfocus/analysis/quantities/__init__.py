"""What is measured of attention: every module of this package registers some quantities, and nobody keeps a list.

A quantity of queries is a function of :class:`Rows`, the scores of some queries, to one number per query, NaN where it
is not defined. A quantity of keys is a function of the number of queries that keep each key.
"""

from importlib import import_module
from pkgutil import iter_modules

from .base import QUANTITIES, AttentionQuantity, chosen, of_keys, of_queries
from .rows import Rows

__all__ = ["QUANTITIES", "AttentionQuantity", "Rows", "chosen", "of_keys", "of_queries"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
