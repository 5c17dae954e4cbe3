"""Parameters of a configuration's attention: ``config.semfocus``.

A parameter is stored in one place, where it was set last: in the name (``topk_sparse:k=8``) or in ``config.semfocus``.
A new name removes the parameters that it states from ``config.semfocus``, and ``config.semfocus = {...}`` removes
those in the name. Reading ``config.semfocus`` gives both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from ..mechanisms import base_name, get, parameters
from ..messages import shown
from .settings import alternatives, is_ours, stated

NAME = "_attn_implementation_internal"
"""Attribute in which Transformers stores the name."""
SETTINGS = "semfocus"
"""Attribute for the parameters that the name does not state."""
SOURCE = "_semfocus_source"
"""Attribute of a module that holds the configuration that is saved for it."""


class Settings(dict):
    """``config.semfocus`` as it is read; read-only, as a change in place would not reach the name or the parts."""

    def _refuse(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError(
            f"config.semfocus={shown(dict(self))} cannot be changed in place; expected a new dict, config.semfocus = "
            "{...}, or hf_semfocus.configure(model, ...)"
        )

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict]]:
        return dict, (dict(self),)


def stored_settings(config: Any) -> Any:
    """The parameters that the name of a configuration does not state; None if none was set."""
    return config.__dict__.get(SETTINGS)


def get_settings(config: PreTrainedConfig) -> Any:
    """All parameters of a configuration's attention: the value of ``config.semfocus``.

    Raises:
        AttributeError: its attention is none of ours, and no parameter was set.
    """
    name, settings = config.__dict__.get(NAME), stored_settings(config)
    if settings is not None and not isinstance(settings, Mapping):
        return settings
    if settings is None and not is_ours(name):
        raise AttributeError(f"{type(config).__name__!r} object has no attribute {SETTINGS!r}")
    return Settings({**_copied(settings or {}, Settings), **stated(name)})


def set_settings(config: PreTrainedConfig, settings: Any) -> None:
    """Set the parameters of a configuration and of its parts with an attention of ours."""
    for each in (config, *(part for part in parts(config) if is_ours(part.__dict__.get(NAME)))):
        each.__dict__[SETTINGS] = _copied(settings)
        if is_ours(name := each.__dict__.get(NAME)):
            setattr(each, NAME, base_name(name))


def drop_stated(config: PreTrainedConfig, before: Any, after: Any) -> None:
    """Remove the parameters that the name ``after`` states from ``config.semfocus``.

    If the name has parameters and replaces another mechanism, those that only the other one has are removed, too.
    """
    in_name, settings = stated(after), stored_settings(config)
    if in_name and isinstance(settings, Mapping):
        gone = set(in_name) | alternatives(after, in_name)
        if is_ours(before):
            gone |= set(_known(before)) - set(_known(after))
        config.__dict__[SETTINGS] = {key: value for key, value in settings.items() if key not in gone}


def pass_to_parts(config: PreTrainedConfig) -> None:
    """Copy the parameters of a configuration to its parts with the same attention and no parameters of their own."""
    name, settings = config.__dict__.get(NAME), stored_settings(config)
    for key in config.sub_configs:
        if (part := getattr(config, key, None)) is None:
            continue
        inner = part.__dict__.get(NAME)
        same = not is_ours(name) or base_name(name) == base_name(str(inner))
        if is_ours(inner) and same and stored_settings(part) is None and isinstance(settings, Mapping):
            part.__dict__[SETTINGS] = {key: value for key, value in settings.items() if key not in stated(inner)}
        pass_to_parts(part)


def parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """The declared sub-configurations of a configuration, and theirs."""
    for key in config.sub_configs:
        if (part := getattr(config, key, None)) is not None:
            yield part
            yield from parts(part)


def settings_of(module: nn.Module) -> Mapping[str, Any] | None:
    """The parameters of a module's attention that its name does not state.

    Raises:
        ValueError: its configuration is a copy of the one that is saved, and differs from it.
    """
    if (config := getattr(module, "config", None)) is None:
        return None
    source = getattr(module, SOURCE, config)
    if source is config:
        return stored_settings(config)
    mine, theirs = stored_settings(config), stored_settings(source)
    name, saved = config.__dict__.get(NAME), source.__dict__.get(NAME)
    if mine is None and name == saved:
        return theirs
    decided = theirs is not None or is_ours(saved)
    if decided and (mine, name) != (theirs, saved) and get_settings(config) != get_settings(source):
        raise ValueError(
            f"config.semfocus is {shown(get_settings(source))} on the model but {shown(get_settings(config))} on the "
            f"configuration of its {type(module).__name__}; set both with hf_semfocus.configure(model, ...)"
        )
    return mine


def _copied(settings: Any, kind: type[dict] = dict, depth: int = 3) -> Any:
    """Parameters with the tables of layers and heads among them, each of the type ``kind``."""
    if not isinstance(settings, Mapping) or not depth:
        return settings
    return kind({key: _copied(value, kind, depth - 1) for key, value in settings.items()})


def _known(name: str) -> list[str]:
    return parameters(get(base_name(name)))
