"""Benchmark of attention: correctness first, then time and memory against PyTorch's attention and other libraries.

``recipes/bench.py`` is its command line.
"""

from .correct import IncorrectError
from .environment import file_stem
from .plan import Plan, run
from .plot import draw
from .processors import summary
from .report import markdown, ran_on, remarks, tables
from .suites import Suite, suite

__all__ = [
    "IncorrectError",
    "Plan",
    "Suite",
    "draw",
    "file_stem",
    "markdown",
    "ran_on",
    "remarks",
    "run",
    "suite",
    "summary",
    "tables",
]
