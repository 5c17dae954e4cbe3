"""Grids of runs: a point is one run, named by its configuration; a finished point is never repeated.

``points`` reads a grid, ``results`` keeps a line per run and per evaluation, ``execute`` runs the points, and ``cost``
estimates those that are left. An executor runs any trainings (``jobs``): ``local`` in processes side by side,
``on_ray`` on a Ray cluster, ``on_slurm`` in the queue of Slurm; each is one file on top of ``executor``. Nothing but
the files decides what is done, so a grid goes on wherever it was stopped.
"""

from .execute import run
from .executor import Executor
from .jobs import Failure, Job, semfocus, training_command
from .local import LocalExecutor
from .on_ray import RayExecutor
from .on_slurm import SlurmExecutor
from .points import Point, read_about, read_grid
from .results import Results

__all__ = [
    "Executor",
    "Failure",
    "Job",
    "LocalExecutor",
    "Point",
    "RayExecutor",
    "Results",
    "SlurmExecutor",
    "read_about",
    "read_grid",
    "run",
    "semfocus",
    "training_command",
]
