"""Grids of runs: a point is one run, named by its configuration; a finished point is never repeated.

``points`` reads a grid, ``results`` keeps a line per run and per evaluation, ``local`` runs points in processes side
by side. Nothing but the files decides what is done, so a grid goes on wherever it was stopped.
"""

from .local import Failure, run
from .points import Point, read_grid
from .results import Results

__all__ = ["Failure", "Point", "Results", "read_grid", "run"]
