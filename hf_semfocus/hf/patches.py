"""The methods of Transformers and PEFT this package wraps, each to close one gap in the attention interface.

``get_correct_attn_implementation``  accepts ``topk_sparse:k=8``; refuses classes without the interface and bad
                                     parameters when the model is made; names our choices in its error.
``set_attn_implementation``          refuses such classes where Transformers only logs a warning.
``post_init``                        links every module to the whole model's configuration, and refuses models
                                     without any attention that asks the interface.
``PreTrainedConfig.to_dict``         keeps the name of our implementation, which Transformers drops, so that what
                                     is saved comes back sparse, or not at all without this package.
``PreTrainedConfig.from_dict``       notes the attention of the checkpoint: an adapter may replace that, and leaves
                                     alone what somebody asked for.
``save_pretrained``, ``load_adapter`` of Transformers and PEFT, ``to_dict`` and ``from_peft_type`` of PEFT's
                                     configurations: keep the attention of an adapter and give it back. PEFT is
                                     wrapped as soon as it is imported.

Nothing changes for models that use none of our names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..mechanisms import names
from . import adapters
from .attention import register
from .entry import READ, has_ours
from .settings import is_ours, names_in, resolve, stamp
from .support import check_class, check_modules
from .visibility import FORM, mark
from .wrapping import when_imported, wrap


def apply() -> None:
    """Wrap the methods; again is harmless."""
    wrap(PreTrainedModel, "get_correct_attn_implementation", _get_correct)
    wrap(PreTrainedModel, "set_attn_implementation", _set)
    wrap(PreTrainedModel, "post_init", _post_init)
    wrap(PreTrainedModel, "save_pretrained", adapters.save_model)
    wrap(PreTrainedModel, "load_adapter", adapters.load_into_model)
    wrap(PreTrainedConfig, "to_dict", _to_dict)
    wrap(PreTrainedConfig, "from_dict", _from_dict)
    when_imported("peft", adapters.wrap_peft)


def _get_correct(
    original: Callable[..., str],
    self: PreTrainedModel,
    requested_attention: str | None,
    *args: Any,
    **kwargs: Any,
) -> str:
    if is_ours(requested_attention):
        check_class(type(self), requested_attention)
        resolve(requested_attention, getattr(self.config, "semfocus", None))
        register(requested_attention)
    try:
        name = original(self, requested_attention, *args, **kwargs)
    except ValueError as error:
        if "is not supported. The only possible arguments are" not in str(error):
            raise
        raise ValueError(
            f"{error} hf_semfocus adds {', '.join(names())}, each also with parameters as NAME:param=value,..."
        ) from None
    if requested_attention is None:
        setattr(self, adapters.UNASKED, name)
    return name


def _set(
    original: Callable[..., None],
    self: PreTrainedModel,
    attn_implementation: str | dict[str, Any],
    *args: Any,
    **kwargs: Any,
) -> None:
    asked = {id(config): name for config, name in _asked(self.config, attn_implementation)}
    for module in self.modules():
        if isinstance(module, PreTrainedModel):
            name = asked.get(id(module.config), asked.get(id(self.config)))
            if is_ours(name):
                check_class(type(module), name)
    if is_ours(name := asked[id(self.config)]):
        check_modules(self, name)
    original(self, attn_implementation, *args, **kwargs)
    setattr(self, adapters.UNASKED, None)
    if any(map(is_ours, asked.values())):
        stamp(self)
        mark(self)


def _asked(config: PreTrainedConfig, value: Any) -> Iterator[tuple[PreTrainedConfig, Any]]:
    """Every configuration with the implementation asked for it, in the string and the dict form."""
    yield config, value.get("") if isinstance(value, dict) else value
    for key in config.sub_configs:
        if (sub := getattr(config, key, None)) is not None:
            yield from _asked(sub, value.get(key) if isinstance(value, dict) else value)


def _post_init(original: Callable[..., None], self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
    original(self, *args, **kwargs)
    if is_ours(name := self.config._attn_implementation):
        check_modules(self, name)
        stamp(self)
        mark(self)


def _to_dict(original: Callable[..., dict[str, Any]], self: PreTrainedConfig, *args: Any, **kwargs: Any) -> dict:
    output = original(self, *args, **kwargs)
    if (name := names_in(self)) is not None:
        output["attn_implementation"] = name
    for note in (FORM, READ):
        output.pop(note, None)
    return output


def _from_dict(
    original: Callable[..., Any], cls: type[PreTrainedConfig], config_dict: dict[str, Any], **kwargs: Any
) -> Any:
    read = config_dict.get("attn_implementation")  # before the keyword of that name replaces it
    made = original(cls, config_dict, **kwargs)
    if has_ours(read):
        setattr(made[0] if isinstance(made, tuple) else made, READ, read)
    return made
