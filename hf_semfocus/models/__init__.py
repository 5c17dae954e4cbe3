"""Models of this library; importing this package makes them known to Transformers' Auto classes."""

from .presets import KINDS, PRESETS, Sizes, build_classifier, build_model, checkpoint_config
from .semfocus_encoder import SemFocusEncoderConfig, SemFocusEncoderForSequenceClassification, SemFocusEncoderModel

__all__ = [
    "KINDS",
    "PRESETS",
    "SemFocusEncoderConfig",
    "SemFocusEncoderForSequenceClassification",
    "SemFocusEncoderModel",
    "Sizes",
    "build_classifier",
    "build_model",
    "checkpoint_config",
]
