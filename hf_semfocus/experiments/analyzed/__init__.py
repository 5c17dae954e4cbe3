"""What ``semfocus analyze`` measures: checkpoints and runs of comparisons, a dense beside a sparse model."""

from .inputs import Inputs
from .measure import Measurement
from .models import Model
from .pairs import Comparison, Planned, find

__all__ = ["Comparison", "Inputs", "Measurement", "Model", "Planned", "find"]
