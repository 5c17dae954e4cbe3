"""The four methods of Transformers this package wraps, each to close one gap in its attention interface.

``get_correct_attn_implementation``  accepts ``topk_sparse:k=8``; refuses classes without the interface and bad
                                     parameters when the model is made; names our choices in its error.
``set_attn_implementation``          refuses such classes where Transformers only logs a warning.
``post_init``                        links every module to the whole model's configuration, and refuses models
                                     without any attention that asks the interface.
``PreTrainedConfig.to_dict``         keeps the name of our implementation, which Transformers drops, so that what
                                     is saved comes back sparse, or not at all without this package.

Nothing changes for models that use none of our names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..mechanisms import names
from .attention import register
from .settings import is_ours, resolve, stamp
from .support import check_class, check_modules
from .visibility import FORM, mark
from .wrapping import wrap


def apply() -> None:
    """Wrap the four methods; again is harmless."""
    wrap(PreTrainedModel, "get_correct_attn_implementation", _get_correct)
    wrap(PreTrainedModel, "set_attn_implementation", _set)
    wrap(PreTrainedModel, "post_init", _post_init)
    wrap(PreTrainedConfig, "to_dict", _to_dict)


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
        return original(self, requested_attention, *args, **kwargs)
    except ValueError as error:
        if "is not supported. The only possible arguments are" not in str(error):
            raise
        raise ValueError(
            f"{error} hf_semfocus adds {', '.join(names())}, each also with parameters as NAME:param=value,..."
        ) from None


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
    output.pop(FORM, None)
    if (name := _saved(self)) is not None:
        output["attn_implementation"] = name
    return output


def _saved(config: PreTrainedConfig) -> str | dict[str, Any] | None:
    """Our names in a configuration: one for all of it, or a dict of those of its parts; None for none."""
    own = config._attn_implementation if is_ours(config._attn_implementation) else None
    parts = {key: getattr(config, key, None) for key in config.sub_configs}
    saved = {key: _saved(part) for key, part in parts.items() if part is not None}
    if all(name == own for name in saved.values()):
        return own
    return {"": own, **saved}
