"""Change the attention of a whole model, names and parameters, on every configuration its parts hold or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .parameters import NAME, SETTINGS, SOURCE, parts, stored_settings
from .settings import check_once, is_ours, resolve
from .state import attach


def configure(model: PreTrainedModel, attention: str | None = None, **params: Any) -> None:
    """Set the attention parameters of a model on every configuration its parts hold.

    ``model.config.semfocus = {"k": 8}`` does the same for models whose parts share one configuration (GPT-2,
    BERT, LLaMA) or are declared in it (CLIP); encoder-decoder models hold copies, and this reaches them all.

    Args:
        model: a Transformers model.
        attention: the implementation to switch to at the same time; by default it stays.
        **params: parameters of the mechanism, and ``backend``; those not given return to their defaults.

    Raises:
        ValueError: a parameter or value the mechanism does not have, or one that ``attention`` states otherwise;
            nothing is changed then.
    """
    check_once(attention, params)
    configs = configurations(model)
    sparse = [config for config in configs if is_ours(config._attn_implementation)]
    with all_or_nothing(configs):
        for config in sparse if sparse and attention is None else configs:
            config.semfocus = params
        if attention is not None:
            model.set_attn_implementation(attention)
        check(configs)
        attach(model)


def configurations(model: nn.Module) -> list[PreTrainedConfig]:
    """Every configuration that a model or a module of it has, and their parts."""
    found: dict[int, PreTrainedConfig] = {}
    for module in model.modules():
        if isinstance(config := getattr(module, "config", None), PreTrainedConfig):
            found |= {id(each): each for each in (config, *parts(config))}
    return list(found.values())


def check(configs: Sequence[PreTrainedConfig]) -> None:
    """Refuse parameters that do not fit the attention beside them.

    Raises:
        ValueError: names the parameter and what was expected.
    """
    for config in configs:
        if is_ours(config._attn_implementation):
            resolve(config._attn_implementation, stored_settings(config))


@contextmanager
def all_or_nothing(configs: Sequence[PreTrainedConfig]) -> Iterator[None]:
    """Put names and parameters back as they were if what follows fails."""
    before = [{key: config.__dict__[key] for key in (NAME, SETTINGS) if key in config.__dict__} for config in configs]
    try:
        yield
    except Exception:
        for config, old in zip(configs, before, strict=True):
            config.__dict__.pop(SETTINGS, None)
            config.__dict__.update(old)
        raise


def link_configs(model: PreTrainedModel) -> None:
    """Let every module find the configuration that is saved for it: the model's, or a declared part of that."""
    for module, source in config_sources(model):
        setattr(module, SOURCE, source)


def config_sources(model: PreTrainedModel) -> Iterator[tuple[nn.Module, PreTrainedConfig]]:
    """Every module that has a configuration, and the one that is saved for it: its own, or of what it is part of."""
    saved = {id(part) for part in (model.config, *parts(model.config))}

    def visit(module: nn.Module, source: PreTrainedConfig) -> Iterator[tuple[nn.Module, PreTrainedConfig]]:
        if (config := getattr(module, "config", None)) is not None:
            source = config if id(config) in saved else source
            yield module, source
        for child in module.children():
            yield from visit(child, source)

    return visit(model, model.config)
