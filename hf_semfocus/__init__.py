"""Sparse attention with semantic focus (arXiv 2506.14095) for any Transformers model.

Importing this package makes every mechanism an ``attn_implementation``::

    import hf_semfocus
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2", attn_implementation="topk_sparse:k=8")
"""

from importlib import import_module
from typing import Any

from . import hf, mechanisms, models
from .functional import explain, sparse_attention
from .hf import UnsupportedModelError, configure, verify
from .models import SemFocusEncoderConfig, SemFocusEncoderForSequenceClassification, SemFocusEncoderModel

__version__ = "0.1.0"

__all__ = [
    "SemFocusEncoderConfig",
    "SemFocusEncoderForSequenceClassification",
    "SemFocusEncoderModel",
    "UnsupportedModelError",
    "configure",
    "explain",
    "mechanisms",
    "models",
    "sparse_attention",
    "verify",
]

hf.install()


def __getattr__(name: str) -> Any:
    # these need datasets and evaluate, which take seconds to import and which attention does without
    if name in ("hub", "metrics", "tasks", "text", "training"):
        return import_module(f"{__name__}.{name}")
    if name in ("load_adapter", "push_to_hub"):
        return getattr(import_module(f"{__name__}.hub"), name)
    if name == "AttentionSchedule":
        return import_module(f"{__name__}.training").AttentionSchedule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
