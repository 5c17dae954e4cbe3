"""Training with Accelerate: one loop, and what it needs to be exact, resumable and the same for every attention."""

from ..data.batches import Rows
from .callback import AttentionSchedule
from .evaluation import evaluate
from .focus import FocusLogger
from .log import MetricsLog
from .loop import train
from .objectives import OBJECTIVES, Objective, causal_lm, classification, masked_lm, token_classification
from .options import ComparisonOptions, TrainingOptions
from .output import OutputFolder, stated
from .run import Run
from .schedules import FocusSchedule
from .setup import start

__all__ = [
    "OBJECTIVES",
    "AttentionSchedule",
    "ComparisonOptions",
    "FocusLogger",
    "FocusSchedule",
    "MetricsLog",
    "Objective",
    "OutputFolder",
    "Rows",
    "Run",
    "TrainingOptions",
    "causal_lm",
    "classification",
    "evaluate",
    "masked_lm",
    "start",
    "stated",
    "token_classification",
    "train",
]
