"""Grids of runs: a point is one run, named by its configuration; a finished point is never repeated.

``points`` reads a grid, ``results`` keeps a line per run and per evaluation, ``execute`` runs the points, and
``local`` any trainings (``jobs``), in processes side by side. Nothing but the files decides what is done, so a grid
goes on wherever it was stopped.
"""

from .execute import run
from .jobs import Failure, Job, semfocus, training_command
from .local import LocalExecutor
from .points import Point, read_grid
from .results import Results

__all__ = [
    "Failure",
    "Job",
    "LocalExecutor",
    "Point",
    "Results",
    "read_grid",
    "run",
    "semfocus",
    "training_command",
]
