"""Training with Accelerate: one loop, and what it needs to be exact, resumable and the same for every attention."""

from ..data.batches import Rows
from .callback import AttentionSchedule
from .errors import one_line_errors
from .evaluation import evaluate
from .log import MetricsLog
from .loop import train
from .objectives import OBJECTIVES, Objective, causal_lm, classification, masked_lm, token_classification
from .options import ComparisonOptions, TrainingOptions, check_at_least, check_unset, imports, option
from .output import OutputFolder, stated
from .parsing import parse
from .run import Run
from .schedules import FocusSchedule
from .setup import start

__all__ = [
    "OBJECTIVES",
    "AttentionSchedule",
    "ComparisonOptions",
    "FocusSchedule",
    "MetricsLog",
    "Objective",
    "OutputFolder",
    "Rows",
    "Run",
    "TrainingOptions",
    "causal_lm",
    "check_at_least",
    "check_unset",
    "classification",
    "evaluate",
    "imports",
    "masked_lm",
    "one_line_errors",
    "option",
    "parse",
    "start",
    "stated",
    "token_classification",
    "train",
]
