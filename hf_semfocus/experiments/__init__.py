"""What the recipes compare attentions on: everything of a comparison but the attention, and the comparison itself.

One file makes one family of experiments: ``synthetic`` (the tasks of this library), ``language`` (text), ``labeled``
(texts with classes); ``with_lora`` makes any of them train adapters. ``compare`` trains every attention with every
seed, and reports; ``swap_checkpoint`` and its kin evaluate one model under many attentions.
"""

from .adapted import LoraOptions, with_lora
from .base import Experiment, title
from .compare import compare
from .labeled import Examples, checkpoint, labeled
from .language import Text, language
from .lengths import evaluate_lengths
from .publishing import HubOptions
from .quantities import measure_quantities
from .swap import swap_checkpoint, swap_dense_run, swap_only
from .swap_options import SwapOptions
from .synthetic import synthetic

__all__ = [
    "Examples",
    "Experiment",
    "HubOptions",
    "LoraOptions",
    "SwapOptions",
    "Text",
    "checkpoint",
    "compare",
    "evaluate_lengths",
    "labeled",
    "language",
    "measure_quantities",
    "swap_checkpoint",
    "swap_dense_run",
    "swap_only",
    "synthetic",
    "title",
    "with_lora",
]
