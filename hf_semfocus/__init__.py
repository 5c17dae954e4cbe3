"""Sparse attention with semantic focus (arXiv 2506.14095) for any Transformers model.

Importing this package makes every mechanism an ``attn_implementation``::

    import hf_semfocus
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2", attn_implementation="topk_sparse:k=8")
"""

from . import adapters, hf, mechanisms, models
from .functional import sparse_attention
from .hf import UnsupportedModelError, configure, describe, explain, verify
from .lazy import lazy_imports
from .models import SemFocusEncoderConfig, SemFocusEncoderForSequenceClassification, SemFocusEncoderModel

__version__ = "0.1.0"

__all__ = [
    "SemFocusEncoderConfig",
    "SemFocusEncoderForSequenceClassification",
    "SemFocusEncoderModel",
    "UnsupportedModelError",
    "configure",
    "describe",
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

__getattr__, __dir__ = lazy_imports(__name__, _LAZY, __all__)
