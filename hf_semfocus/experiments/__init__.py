"""What the recipes compare attentions on: everything of a comparison but the attention, and the comparison itself.

One file makes one family of experiments: ``synthetic`` (the tasks of this library), ``language`` (text).
``compare`` trains every attention with every seed, and reports.
"""

from .base import Experiment
from .compare import compare
from .language import Text, language
from .publishing import HubOptions
from .synthetic import synthetic

__all__ = ["Experiment", "HubOptions", "Text", "compare", "language", "synthetic"]
