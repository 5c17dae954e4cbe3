"""Training with Accelerate: one loop, and what it needs to be exact, resumable and the same for every attention."""

from .batches import Rows, SequenceRows
from .callback import AttentionSchedule
from .errors import one_line_errors
from .evaluation import evaluate
from .log import MetricsLog
from .loop import Run, train
from .options import ComparisonOptions, TrainingOptions, check_at_least, check_unset, imports, option, parse
from .output import OutputFolder, stated
from .schedules import FocusSchedule
from .setup import start
from .steps import Objective, classification

__all__ = [
    "AttentionSchedule",
    "ComparisonOptions",
    "FocusSchedule",
    "MetricsLog",
    "Objective",
    "OutputFolder",
    "Rows",
    "Run",
    "SequenceRows",
    "TrainingOptions",
    "check_at_least",
    "check_unset",
    "classification",
    "evaluate",
    "imports",
    "one_line_errors",
    "option",
    "parse",
    "start",
    "stated",
    "train",
]
