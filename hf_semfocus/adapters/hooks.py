"""Save the attention with every PEFT adapter, and restore it on the base model wherever an adapter is loaded.

Every saver calls ``to_dict`` of PEFT's configuration, and every loader a ``load_adapter``. These, ``from_peft_type``
(which reads the entry) and the compatibility check of hotswapping are wrapped as soon as PEFT is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from ..hf.wrapping import when_imported, wrap
from .applying import apply_entry, with_tables
from .entry import DENSE, ENTRY, FILE, checked, entry_of

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
    before, after = (with_tables(entry["attention"], entry.get("tables")) for entry in entries)
    if hasattr(now, ENTRY_ATTRIBUTE) and before != after:
        raise ValueError(
            f"the adapters were trained with the attentions {before!r} and {after!r}; expected the same to hotswap, "
            "or load_adapter"
        )


def _base(model: PreTrainedModel | PeftModel) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
