"""Give a model the attention that is saved with a PEFT adapter, unless the model was given another one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..hf.configs import LOADED
from ..hf.patches import IMPLICIT
from ..hf.settings import names_in
from ..hf.state import has_state
from ..hf.switching import Tables, configure, set_tables, tables_of
from ..messages import shown
from .entry import DENSE, attention_of, unnamed


def apply_entry(model: Any, entry: Mapping[str, Any], where: Any) -> None:
    """Give a model the attention and the class names of an adapter; warn where it keeps another attention.

    Args:
        model: the adapter's base model.
        entry: what :func:`checked` returned.
        where: the adapter's folder or name, for messages.

    Raises:
        ValueError: the model cannot have the attention, or lacked its parameters when the adapter was loaded.
    """
    wanted = with_tables(entry["attention"], entry.get("tables"))
    trained = f"the adapter {shown(where)} was trained with the attention {wanted!r}"
    if not isinstance(model, PreTrainedModel):
        warnings.warn(f"{trained}, which a {type(model).__name__} cannot be given", stacklevel=4)
        return
    _name_classes(model.config, entry.get("id2label"))
    if (now := _now(model)) == wanted:
        return
    if _was_chosen(model):
        warnings.warn(
            f"{trained}, but its base model was given {now!r} and keeps it; "
            "hf_semfocus.load_adapter(adapter, model) gives it the adapter's",
            stacklevel=4,
        )
        return
    fresh = not has_state(model)
    set_attention(model, entry)
    if fresh and has_state(model):
        raise ValueError(
            f"{trained}, whose parameters it holds, but its base model had none when it was loaded; expected "
            "hf_semfocus.load_adapter(adapter, model), or a base model with that attention"
        )
    if (now := _now(model)) != wanted:
        raise ValueError(f"{trained}; the {type(model).__name__} it is for has no such parts, only {shown(now)}")


def set_attention(model: PreTrainedModel, entry: Mapping[str, Any]) -> None:
    """Give a model, or its parts, the attention of an adapter's entry.

    Raises:
        ValueError: the model cannot have it.
    """
    attention = entry["attention"]
    if isinstance(attention, str):
        configure(model, attention)
    else:
        model.set_attn_implementation(_without_dense(attention))
    if tables := entry.get("tables"):
        set_tables(model, tables)


def _now(model: PreTrainedModel) -> Any:
    return with_tables(attention_of(model.config) or DENSE, tables_of(model.config))


def with_tables(attention: str | dict[str, Any], tables: Tables | None) -> Any:
    """An attention beside its names by layer and head, where there are any."""
    return (attention, tables) if tables else attention


def _was_chosen(model: PreTrainedModel) -> bool:
    """Whether the model's attention was requested explicitly, not only by the checkpoint it was loaded from."""
    name = names_in(model.config)
    if name is None:
        return model.config._attn_implementation != getattr(model, IMPLICIT, None)
    return name != getattr(model.config, LOADED, None)


def _without_dense(attention: Mapping[str, Any]) -> dict[str, Any]:
    """The attentions of a model's parts without the dense ones, which are left unchanged."""
    given = {key: value for key, value in attention.items() if value is not None}
    return {key: _without_dense(value) if isinstance(value, dict) else value for key, value in given.items()}


def _name_classes(config: PreTrainedConfig, names: Mapping[int, str] | None) -> None:
    """Give a base model without class names those of the adapter."""
    if names and len(names) == config.num_labels and unnamed(config.id2label):
        config.id2label = dict(names)
        config.label2id = {name: number for number, name in names.items()}
