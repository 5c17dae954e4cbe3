"""The entry of ``adapter_config.json`` that keeps the attention and the class names of an adapter's base model.

PEFT keeps nothing of the base model but its name, so that an adapter alone would come back dense, and a base model has
no names for the classes that its adapter was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from .. import mechanisms
from ..hf.configs import LOADED
from ..hf.settings import DEEPEST, has_ours, is_ours, names_in, resolve
from ..messages import shown

FILE = "adapter_config.json"
ENTRY = "hf_semfocus"
"""Its name in the file; without this package PEFT warns that it ignores an argument of this name."""
DENSE = "sdpa"
"""The attention of an adapter that was trained dense on a checkpoint with one of our attentions."""


def attention_of(config: PreTrainedConfig) -> str | dict[str, Any] | None:
    """Our attention in a configuration with all parameters: one name, a dict of those of its parts, or None."""

    def stated(part: PreTrainedConfig) -> str:
        return resolve(part._attn_implementation, part.semfocus)[0].spec

    return names_in(config, stated)


def entry_of(model: Any) -> dict[str, Any] | None:
    """What an adapter on ``model`` keeps; None where neither model nor checkpoint has any of our attentions."""
    if not isinstance(model, PreTrainedModel):
        return None
    attention = attention_of(model.config) or (DENSE if hasattr(model.config, LOADED) else None)
    if attention is None:
        return None
    labels = model.config.id2label
    return {"attention": attention} | ({} if unnamed(labels) else {"id2label": dict(labels)})


def checked(entry: Any) -> dict[str, Any] | None:
    """The entry as it was read from a file, with all parameters of the attention.

    Raises:
        ValueError: it is not what this package writes, or names a mechanism or parameter that is not there.
    """
    if entry is None:
        return None
    if not isinstance(entry, dict) or not {"attention"} <= set(entry) <= {"attention", "id2label"}:
        raise ValueError(f"{FILE}: {ENTRY}={shown(entry)}; expected a dict such as {{'attention': 'topk_sparse:k=8'}}")
    labels = entry.get("id2label")
    if labels is None:
        return {"attention": _stated(entry["attention"])}
    if not isinstance(labels, dict) or not all(str(k).isdecimal() and isinstance(v, str) for k, v in labels.items()):
        raise ValueError(f"{FILE}: id2label={shown(labels)}; expected names of numbered classes")
    return {
        "attention": _stated(entry["attention"]),
        "id2label": {int(number): name for number, name in labels.items()},
    }


def _stated(attention: Any, depth: int = DEEPEST) -> str | dict[str, Any]:
    """An attention as it was read from a file, with all parameters.

    Raises:
        ValueError: it is none of ours, or a dict for parts that have parts that have parts ...
    """
    if isinstance(attention, dict) and has_ours(attention, depth):
        return {part: None if name is None else _stated(name, depth - 1) for part, name in attention.items()}
    if attention == DENSE:
        return attention
    if not is_ours(attention):
        raise ValueError(
            f"{FILE}: attention={shown(attention)} is not known; expected one of {', '.join(mechanisms.names())}, "
            "with parameters or without, or what is registered before the adapter is loaded"
        )
    return resolve(attention, None)[0].spec


def unnamed(labels: Mapping[int, str] | None) -> bool:
    """Whether classes have no names but those that Transformers makes up."""
    return not labels or all(name == f"LABEL_{number}" for number, name in labels.items())
