"""Wrapped methods of ``PreTrainedConfig``, which keep the name and the parameters of an attention consistent.

``_attn_implementation``   None keeps a name of ours. A new name removes the parameters that it states from
                           ``config.semfocus``. Warns where a library switches to another attention.
``semfocus``               reads as all parameters of the attention; assigning it removes those in the name.
``__post_init__``          sets ``semfocus`` before the name, which takes precedence.
``from_dict``              sets a requested attention over a saved one of ours as on a live configuration, and notes
                           the saved one, which an adapter may replace.
``to_dict``                keeps the name of our attention, which Transformers drops, so that a saved model is loaded
                           sparse, or not at all without this package.
``_dict_from_json_file``   refuses a file that is nested too deeply.
``output_attentions``      may be True with our names, which return weights.

Other configurations are not affected.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from transformers import PreTrainedConfig

from .attention import register
from .escapes import reported
from .parameters import NAME, SETTINGS, drop_stated, get_settings, parts, set_settings, stored_settings
from .settings import check_name, check_once, has_ours, is_ours, names_in, resolve
from .visibility import FORM
from .wrapping import wrap, wrap_setter

LOADED = "_semfocus_read"
"""Attribute of a model's configuration that holds the attention of the checkpoint, if it is ours."""


def apply() -> None:
    """Wrap the methods. Idempotent."""
    PreTrainedConfig.semfocus = property(
        get_settings, set_settings, doc="Parameters of the attention, where it is one of hf_semfocus."
    )
    wrap(PreTrainedConfig, "__post_init__", _post_init)
    wrap(PreTrainedConfig, "from_dict", _from_dict)
    wrap(PreTrainedConfig, "to_dict", _to_dict)
    wrap(PreTrainedConfig, "_dict_from_json_file", _read)
    wrap_setter(PreTrainedConfig, "_attn_implementation", _set_name)
    wrap_setter(PreTrainedConfig, "output_attentions", _set_output_attentions)
    _wrap_validator("validate_output_attentions", _validate_output_attentions)


def _post_init(original: Callable[..., None], self: PreTrainedConfig, **kwargs: Any) -> None:
    if SETTINGS in kwargs:
        self.__dict__[SETTINGS] = kwargs.pop(SETTINGS)
    original(self, **kwargs)


def _set_name(original: Callable[..., None], self: PreTrainedConfig, value: Any) -> None:
    check_name(value)
    before = self.__dict__.get(NAME)
    after = value.get("", before) if isinstance(value, dict) else value
    with reported(self, [self, *parts(self)]):
        original(self, value)
        if after is None and is_ours(before):
            setattr(self, NAME, before)
    if is_ours(after):
        drop_stated(self, before, after)
        with suppress(ValueError):  # raises when a model is made
            resolve(after, stored_settings(self))
            register(after)


def _from_dict(
    original: Callable[..., Any], cls: type[PreTrainedConfig], config_dict: dict[str, Any], **kwargs: Any
) -> Any:
    check_once(kwargs.get("attn_implementation"), kwargs.get(SETTINGS))
    read = config_dict.get("attn_implementation")
    if SETTINGS not in kwargs and not has_ours(read):
        return original(cls, config_dict, **kwargs)
    asked = kwargs.pop("attn_implementation", None)
    if SETTINGS in kwargs and asked is not None:  # parameters need a name of ours in the configuration
        config_dict = {**config_dict, "attn_implementation": asked}
    made = original(cls, config_dict, **kwargs)
    config = made[0] if isinstance(made, tuple) else made
    if asked is not None:
        config._attn_implementation = asked
    if has_ours(read):
        setattr(config, LOADED, read)
    return made


def _read(original: Callable[..., dict], cls: type[PreTrainedConfig], json_file: Any) -> dict:
    try:
        return original(cls, json_file)
    except RecursionError:
        raise ValueError(f"{json_file} is nested too deeply; expected a configuration of a model") from None


def _to_dict(original: Callable[..., dict[str, Any]], self: PreTrainedConfig, *args: Any, **kwargs: Any) -> dict:
    output = original(self, *args, **kwargs)
    for note in (FORM, LOADED):
        output.pop(note, None)
    if (name := names_in(self)) is not None:
        output["attn_implementation"] = name
    if output.get(SETTINGS) is None or (output[SETTINGS] == {} and not is_ours(self.__dict__.get(NAME))):
        output.pop(SETTINGS, None)
    return output


def _set_output_attentions(original: Callable[..., None], self: PreTrainedConfig, value: bool) -> None:
    if is_ours(self.__dict__.get(NAME)):
        self._output_attentions = value
    else:
        original(self, value)


def _validate_output_attentions(original: Callable[..., None], self: PreTrainedConfig) -> None:
    if not is_ours(self.__dict__.get(NAME)):
        original(self)


def _wrap_validator(name: str, around: Callable[..., Any]) -> None:
    """Wrap a validator, and replace it where a configuration's class has collected its own validators already."""
    original = getattr(PreTrainedConfig, name)
    wrap(PreTrainedConfig, name, around)
    left = [PreTrainedConfig]
    while left:
        cls = left.pop()
        left += cls.__subclasses__()
        if validators := vars(cls).get("__class_validators__"):
            validators[:] = [getattr(PreTrainedConfig, name) if each is original else each for each in validators]
