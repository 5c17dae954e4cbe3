"""Sparse attention with semantic focus (arXiv 2506.14095) for any Transformers model.

Importing this package makes every mechanism an ``attn_implementation``::

    import hf_semfocus
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2", attn_implementation="topk_sparse:k=8")
"""

from importlib import import_module
from typing import Any

from . import adapters, hf, mechanisms, models
from .functional import sparse_attention
from .hf import UnsupportedModelError, configure, explain, verify
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

# these need datasets and evaluate, which take seconds to import and which attention does not need
_LAZY = {name: name for name in ("analysis", "data", "hub", "metrics", "training")} | {
    "tasks": "data.tasks",
    "AttentionSchedule": "training",
    "FocusLogger": "training",
    "compare_attentions": "experiments.on_text",
    "load_adapter": "adapters.loading",
    "push_to_hub": "hub",
}
"""Public names that are imported on first use, and the module that each is or is in."""

hf.install()
adapters.install()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    part = import_module(f"{__name__}.{_LAZY[name]}")
    return part if part.__name__.endswith(f".{name}") else getattr(part, name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_LAZY])
