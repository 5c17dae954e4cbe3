"""Parameters of a model's attention: what the name says, then ``config.semfocus``, then the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .. import backends
from ..mechanisms import Mechanism, build, names

ROOT = "_semfocus_root"
"""Attribute under which every module of a model finds the configuration of the whole model."""


def is_ours(name: Any) -> bool:
    """Whether ``name`` (an ``attn_implementation``) is a mechanism, with or without parameters."""
    return isinstance(name, str) and name.partition(":")[0] in names()


def resolve(spec: str, settings: Mapping[str, Any] | None) -> tuple[Mechanism, str]:
    """Mechanism and back end of an attention name under the settings in ``config.semfocus``.

    Raises:
        ValueError: ``settings`` is not a mapping, or names a parameter or value the mechanism does not have.
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise ValueError(f"config.semfocus={settings!r}; expected a dict of parameters such as {{'k': 8}}")
    items = tuple((key, value, type(value)) for key, value in (settings or {}).items())
    return _MADE[_make(spec, items)]


_MADE: dict[str, tuple[Mechanism, str]] = {}


@torch.compiler.assume_constant_result  # a string, of arguments that a compiled graph guards
def _make(spec: str, items: tuple[tuple[str, Any, type], ...]) -> str:
    """Make the mechanism once and return its key in ``_MADE``."""
    key = repr((spec, items))
    if key not in _MADE:
        settings = {name: value for name, value, _ in items}
        params = {name: value for name, value in settings.items() if name != "backend"}
        try:
            _MADE[key] = build(spec, **params), backends.check(settings.get("backend", "auto"))
        except ValueError as error:
            raise ValueError(f"{error} (config.semfocus={settings!r})" if settings else str(error)) from None
    return key


def forget(name: str) -> None:
    """Make the mechanisms of ``name`` anew when they are asked for next, as the class behind it is another."""
    for key in [key for key, (mechanism, _) in _MADE.items() if mechanism.name == name]:
        del _MADE[key]


def names_in(
    config: PreTrainedConfig, name_of: Callable[[PreTrainedConfig], str] = lambda config: config._attn_implementation
) -> str | dict[str, Any] | None:
    """Our names in a configuration: one for all of it, or a dict of those of its parts; None for none."""
    own = name_of(config) if is_ours(config._attn_implementation) else None
    parts = {key: getattr(config, key, None) for key in config.sub_configs}
    inner = {key: names_in(part, name_of) for key, part in parts.items() if part is not None}
    return own if all(name == own for name in inner.values()) else {"": own, **inner}


def settings_of(module: nn.Module) -> Mapping[str, Any] | None:
    """``semfocus`` of the module's own configuration, or else of the whole model's.

    Raises:
        ValueError: both are set and differ (some models give their parts copies of the configuration).
    """
    own = getattr(getattr(module, "config", None), "semfocus", None)
    root = getattr(getattr(module, ROOT, None), "semfocus", None)
    if own is not None and root is not None and own != root:
        raise ValueError(
            f"config.semfocus is {root!r} on the model but {own!r} on the configuration of its "
            f"{type(module).__name__}; set both with hf_semfocus.configure(model, ...)"
        )
    return root if own is None else own


def stamp(model: PreTrainedModel) -> None:
    """Let every module with a configuration of its own find the whole model's."""
    for module in model.modules():
        if getattr(module, "config", None) is not None:
            setattr(module, ROOT, model.config)


def configure(model: PreTrainedModel, attention: str | None = None, **params: Any) -> None:
    """Set the attention parameters of a model on every configuration its parts hold.

    ``model.config.semfocus = {"k": 8}`` does the same for models whose parts share one configuration (GPT-2,
    BERT, LLaMA); encoder-decoder models hold copies, and this reaches them all.

    Args:
        model: a Transformers model.
        attention: the implementation to switch to at the same time; by default it stays.
        **params: parameters of the mechanism, and ``backend``; those not given return to their defaults.

    Raises:
        ValueError: a parameter or value the mechanism does not have; nothing is changed then.
    """
    configs: dict[int, PreTrainedConfig] = {id(model.config): model.config}
    for module in model.modules():
        if isinstance(config := getattr(module, "config", None), PreTrainedConfig):
            configs[id(config)] = config
    for name in {config._attn_implementation for config in configs.values()} if attention is None else {attention}:
        if is_ours(name):
            resolve(name, params)
    before = [(config, getattr(config, "semfocus", None)) for config in configs.values()]
    for config, _ in before:
        config.semfocus = dict(params)
    if attention is not None:
        try:
            model.set_attn_implementation(attention)
        except ValueError:
            for config, settings in before:
                config.semfocus = settings
            raise
