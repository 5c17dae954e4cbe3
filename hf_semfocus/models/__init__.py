"""Models of this library; importing this package registers them with Transformers' Auto classes."""

from .checkpoints import checkpoint_config
from .presets import PRESETS, Sizes, build_model
from .semfocus_encoder import SemFocusEncoderConfig, SemFocusEncoderForSequenceClassification, SemFocusEncoderModel

__all__ = [
    "PRESETS",
    "SemFocusEncoderConfig",
    "SemFocusEncoderForSequenceClassification",
    "SemFocusEncoderModel",
    "Sizes",
    "build_model",
    "checkpoint_config",
]
