"""The entry of ``adapter_config.json`` that keeps the attention and the class names of an adapter's base model.

PEFT saves only the name of the base model. Without this entry an adapter would be loaded on dense attention, and the
base model would lack the names of the classes that the adapter was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from .. import mechanisms
from ..hf.configs import LOADED
from ..hf.settings import DEEPEST, TABLES, has_ours, is_ours, names_in, resolve
from ..hf.switching import tables_of
from ..messages import shown

FILE = "adapter_config.json"
ENTRY = "hf_semfocus"
"""Name of the entry; without this package PEFT warns that it ignores an argument of this name."""
DENSE = "sdpa"
"""The attention of an adapter that was trained dense on a checkpoint with one of our attentions."""


def attention_of(config: PreTrainedConfig) -> str | dict[str, Any] | None:
    """Our attention in a configuration, with all parameters: a name, a dict of names by part, or None."""

    def stated(part: PreTrainedConfig) -> str:
        return resolve(part._attn_implementation, part.semfocus)[0].spec

    return names_in(config, stated)


def entry_of(model: Any) -> dict[str, Any] | None:
    """The entry for an adapter on ``model``; None where neither model nor checkpoint has one of our attentions."""
    if not isinstance(model, PreTrainedModel):
        return None
    attention = attention_of(model.config) or (DENSE if hasattr(model.config, LOADED) else None)
    if attention is None:
        return None
    labels, tables = model.config.id2label, tables_of(model.config)
    named = {} if unnamed(labels) else {"id2label": dict(labels)}
    return {"attention": attention} | ({"tables": tables} if tables else {}) | named


def checked(entry: Any) -> dict[str, Any] | None:
    """An entry read from a file, validated, with all parameters of the attention stated.

    Raises:
        ValueError: it is not what this package writes, or names an unknown mechanism or parameter.
    """
    if entry is None:
        return None
    if not isinstance(entry, dict) or not {"attention"} <= set(entry) <= {"attention", "tables", "id2label"}:
        raise ValueError(f"{FILE}: {ENTRY}={shown(entry)}; expected a dict such as {{'attention': 'topk_sparse:k=8'}}")
    found = {"attention": _stated(entry["attention"])}
    if (tables := entry.get("tables")) is not None:
        if not isinstance(tables, dict) or not all(isinstance(t, dict) and {*t} <= {*TABLES} for t in tables.values()):
            raise ValueError(f"{FILE}: tables={shown(tables)}; expected layers and heads by part of the model")
        found["tables"] = tables
    if (labels := entry.get("id2label")) is None:
        return found
    if not isinstance(labels, dict) or not all(str(k).isdecimal() and isinstance(v, str) for k, v in labels.items()):
        raise ValueError(f"{FILE}: id2label={shown(labels)}; expected names of numbered classes")
    return found | {"id2label": {int(number): name for number, name in labels.items()}}


def _stated(attention: Any, depth: int = DEEPEST) -> str | dict[str, Any]:
    """An attention read from a file, with all parameters stated.

    Raises:
        ValueError: it is none of ours, or a dict that is nested too deeply.
    """
    if isinstance(attention, dict) and has_ours(attention, depth):
        return {part: None if name is None else _stated(name, depth - 1) for part, name in attention.items()}
    if attention == DENSE:
        return attention
    if not is_ours(attention):
        raise ValueError(
            f"{FILE}: attention={shown(attention)} is not known; expected one of {', '.join(mechanisms.names())}, "
            "with or without parameters, or one that is registered before the adapter is loaded"
        )
    return resolve(attention, None)[0].spec


def unnamed(labels: Mapping[int, str] | None) -> bool:
    """Whether classes have no names other than Transformers' defaults."""
    return not labels or all(name == f"LABEL_{number}" for number, name in labels.items())
