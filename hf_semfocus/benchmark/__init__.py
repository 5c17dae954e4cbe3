"""Benchmark of attention: correctness first, then time and memory against PyTorch's attention and other libraries.

``recipes/bench.py`` is its command line.
"""

from .correct import IncorrectError
from .plan import Plan, run
from .plot import draw
from .report import markdown, remarks, summary, tables
from .suites import Suite, suite

__all__ = ["IncorrectError", "Plan", "Suite", "draw", "markdown", "remarks", "run", "suite", "summary", "tables"]
