"""Save the attention with every PEFT adapter, and restore it on the base model wherever an adapter is loaded.

Every saver calls ``to_dict`` of PEFT's configuration, and every loader a ``load_adapter``. These, ``from_peft_type``
(which reads the entry) and the compatibility check of hotswapping are wrapped as soon as PEFT is imported.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..hf.configs import LOADED
from ..hf.patches import IMPLICIT
from ..hf.settings import names_in
from ..hf.state import has_state
from ..hf.switching import Tables, configure, set_tables, tables_of
from ..hf.wrapping import when_imported, wrap
from ..messages import shown
from .entry import DENSE, ENTRY, FILE, attention_of, checked, entry_of, unnamed

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

ENTRY_ATTRIBUTE = "_semfocus_entry"
"""Attribute of a PEFT configuration that holds the entry it was read with, or last saved with."""


def install() -> None:
    """Wrap the functions that save and load adapters; those of PEFT once it is imported. Idempotent."""
    wrap(PreTrainedModel, "save_pretrained", save_model)
    wrap(PreTrainedModel, "load_adapter", load_into_model)
    when_imported("peft", _wrap_peft)


def _wrap_peft() -> None:
    from peft import PeftModel
    from peft.config import PeftConfigMixin
    from peft.utils import hotswap

    wrap(PeftConfigMixin, "to_dict", _to_dict)
    wrap(PeftConfigMixin, "from_peft_type", _from_peft_type)
    wrap(PeftModel, "save_pretrained", save_model)
    wrap(PeftModel, "load_adapter", _load_into_peft)
    wrap(hotswap, "check_hotswap_configs_compatible", _check_hotswap)


def save_model(original: Callable[..., Any], self: PreTrainedModel | PeftModel, *args: Any, **kwargs: Any) -> Any:
    """Save a model after storing its attention in the configurations of its adapters."""
    if (adapters := getattr(self, "peft_config", None)) is not None:
        entry = entry_of(_base(self))
        for config in adapters.values():
            setattr(config, ENTRY_ATTRIBUTE, entry)
    return original(self, *args, **kwargs)


def load_into_model(
    original: Callable[..., Any],
    self: PreTrainedModel,
    peft_model_id: str | None = None,
    adapter_name: str | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Load an adapter into a Transformers model, then give the model the adapter's attention."""
    loaded = original(self, peft_model_id, adapter_name, *args, **kwargs)
    _restore(self, peft_model_id, adapter_name or "default", kwargs.get("adapter_kwargs") or {})
    return loaded


def stored_entry(config: PeftConfig) -> dict[str, Any] | None:
    """The entry that an adapter's configuration holds; None if it has none."""
    return getattr(config, ENTRY_ATTRIBUTE, None)


def apply_entry(model: Any, entry: Mapping[str, Any], where: Any) -> None:
    """Give a model the attention and the class names of an adapter; warn where it keeps another attention.

    Args:
        model: the adapter's base model.
        entry: what :func:`checked` returned.
        where: the adapter's folder or name, for messages.

    Raises:
        ValueError: the model cannot have the attention, or lacked its parameters when the adapter was loaded.
    """
    wanted = _with_tables(entry["attention"], entry.get("tables"))
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
    return _with_tables(attention_of(model.config) or DENSE, tables_of(model.config))


def _with_tables(attention: str | dict[str, Any], tables: Tables | None) -> Any:
    """An attention beside its names by layer and head, where there are any."""
    return (attention, tables) if tables else attention


def _was_chosen(model: PreTrainedModel) -> bool:
    """Whether the model's attention was requested explicitly, not only by the checkpoint it was loaded from."""
    name = names_in(model.config)
    if name is None:
        return model.config._attn_implementation != getattr(model, IMPLICIT, None)
    return name != getattr(model.config, LOADED, None)


def _load_into_peft(
    original: Callable[..., Any], self: PeftModel, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any
) -> Any:
    loaded = original(self, model_id, adapter_name, *args, **kwargs)
    _restore(self, model_id, adapter_name, kwargs)
    return loaded


def _restore(model: PreTrainedModel | PeftModel, where: Any, name: str, kwargs: Mapping[str, Any]) -> None:
    config = model.peft_config[name]
    folder = os.path.join(where or "", kwargs.get("subfolder") or "")
    if where is not None and os.path.isfile(os.path.join(folder, FILE)):  # possibly weights for an existing adapter
        config = type(config).from_pretrained(folder)
    if (entry := stored_entry(config)) is not None:
        apply_entry(_base(model), entry, where or name)


def _to_dict(original: Callable[..., dict[str, Any]], self: PeftConfig) -> dict[str, Any]:
    entry = stored_entry(self)
    return original(self) | ({} if entry is None else {ENTRY: entry})


def _from_peft_type(original: Callable[..., PeftConfig], cls: type, **kwargs: Any) -> PeftConfig:
    entry = checked(kwargs.pop(ENTRY, None))
    config = original(cls, **kwargs)
    setattr(config, ENTRY_ATTRIBUTE, entry)
    return config


def _check_hotswap(original: Callable[..., None], now: PeftConfig, new: PeftConfig) -> None:
    """Refuse to swap weights in place between adapters that were trained with different attentions.

    An adapter that was neither loaded nor saved has no entry, and is not compared.

    Raises:
        ValueError: names both.
    """
    original(now, new)
    entries = [stored_entry(config) or {"attention": DENSE} for config in (now, new)]
    before, after = (_with_tables(entry["attention"], entry.get("tables")) for entry in entries)
    if hasattr(now, ENTRY_ATTRIBUTE) and before != after:
        raise ValueError(
            f"the adapters were trained with the attentions {before!r} and {after!r}; expected the same to hotswap, "
            "or load_adapter"
        )


def _base(model: PreTrainedModel | PeftModel) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _without_dense(attention: Mapping[str, Any]) -> dict[str, Any]:
    """The attentions of a model's parts without the dense ones, which are left unchanged."""
    given = {key: value for key, value in attention.items() if value is not None}
    return {key: _without_dense(value) if isinstance(value, dict) else value for key, value in given.items()}


def _name_classes(config: PreTrainedConfig, names: Mapping[int, str] | None) -> None:
    """Give a base model without class names those of the adapter."""
    if names and len(names) == config.num_labels and unnamed(config.id2label):
        config.id2label = dict(names)
        config.label2id = {name: number for number, name in names.items()}
