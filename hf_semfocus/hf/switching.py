"""Change the attention of a whole model on all configurations of its parts, or not at all."""

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
    """Set the attention parameters of a model on all configurations of its parts.

    ``model.config.semfocus = {"k": 8}`` does the same for models whose parts share one configuration (GPT-2,
    BERT, LLaMA) or are declared in it (CLIP); encoder-decoder models hold copies, which this changes, too.

    Args:
        model: a Transformers model.
        attention: the implementation to switch to; by default it is kept.
        **params: parameters of the mechanism, and ``backend``; others are reset to their defaults.

    Raises:
        ValueError: a parameter or value the mechanism does not have, or one that contradicts
            ``attention``; nothing is changed.
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
    """All configurations of a model and its modules, and their parts."""
    found: dict[int, PreTrainedConfig] = {}
    for module in model.modules():
        if isinstance(config := getattr(module, "config", None), PreTrainedConfig):
            found |= {id(each): each for each in (config, *parts(config))}
    return list(found.values())


def check(configs: Sequence[PreTrainedConfig]) -> None:
    """Refuse parameters that do not fit their attention.

    Raises:
        ValueError: names the parameter and what was expected.
    """
    for config in configs:
        if is_ours(config._attn_implementation):
            resolve(config._attn_implementation, stored_settings(config))


@contextmanager
def all_or_nothing(configs: Sequence[PreTrainedConfig]) -> Iterator[None]:
    """Restore names and parameters if the block raises."""
    before = [{key: config.__dict__[key] for key in (NAME, SETTINGS) if key in config.__dict__} for config in configs]
    try:
        yield
    except Exception:
        for config, old in zip(configs, before, strict=True):
            config.__dict__.pop(SETTINGS, None)
            config.__dict__.update(old)
        raise


def link_configs(model: PreTrainedModel) -> None:
    """Link every module to the configuration that is saved for it: the model's, or a declared part of that."""
    for module, source in config_sources(model):
        setattr(module, SOURCE, source)


def config_sources(model: PreTrainedModel) -> Iterator[tuple[nn.Module, PreTrainedConfig]]:
    """Every module with a configuration, and the one that is saved for it: its own, or that of a parent."""
    saved = {id(part) for part in (model.config, *parts(model.config))}

    def visit(module: nn.Module, source: PreTrainedConfig) -> Iterator[tuple[nn.Module, PreTrainedConfig]]:
        if (config := getattr(module, "config", None)) is not None:
            source = config if id(config) in saved else source
            yield module, source
        for child in module.children():
            yield from visit(child, source)

    return visit(model, model.config)
