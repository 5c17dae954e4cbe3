"""Change the attention of a whole model on all configurations of its parts, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..mechanisms import names
from ..messages import shown
from .parameters import NAME, SETTINGS, SOURCE, parts, stored_settings
from .settings import TABLES, check_once, is_ours, resolve
from .state import attach

Tables = dict[str, dict[str, Any]]
"""By part of a model (``""`` for itself): names by layer and by head."""


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


def tables_of(config: PreTrainedConfig, path: str = "") -> Tables:
    """The names by layer and head that a configuration and its parts hold."""
    settings = (stored_settings(config) or {}) if is_ours(config._attn_implementation) else {}
    own = {key: settings[key] for key in TABLES if key in settings}
    found = {path: deepcopy(own)} if own else {}
    for key in config.sub_configs:
        if (part := getattr(config, key, None)) is not None:
            found |= tables_of(part, f"{path}.{key}".removeprefix("."))
    return found


def set_tables(model: PreTrainedModel, tables: Tables) -> None:
    """Give a model the tables of :func:`tables_of`, beside the parameters it has.

    Raises:
        ValueError: they are for parts, layers or heads that the model does not have.
    """
    for path, table in tables.items():
        part = model.config
        for key in filter(None, path.split(".")):
            if key not in part.sub_configs or (part := getattr(part, key, None)) is None:
                raise ValueError(f"{type(model).__name__} has no part {shown(path)} for its attentions {shown(table)}")
        part.__dict__[SETTINGS] = {**(stored_settings(part) or {}), **deepcopy(table)}
    for module, source in config_sources(model):
        if module.config is not source and isinstance(module.config, PreTrainedConfig):
            module.config.__dict__[SETTINGS] = stored_settings(source)
    attach(model)


def set_layers(model: nn.Module, layers: Mapping[str, str]) -> None:
    """Give a model the names by layer, beside the parameters it has, where its attention is one of ours.

    Raises:
        ValueError: a layer does not exist, or an attention does not, or no part of the model has one of ours.
    """
    changed, configs = False, configurations(model)
    if layers and not any(is_ours(config._attn_implementation) for config in configs):
        raise ValueError(
            f"layers={shown(dict(layers))} cannot be beside attn_implementation="
            f"{configs[0]._attn_implementation!r}; expected one of {', '.join(names())} for the other layers, which "
            "may be 'sdpa' by number"
        )
    for config in configs:
        before = stored_settings(config) or {}
        if is_ours(config._attn_implementation) and before.get("layers", {}) != layers:
            config.__dict__[SETTINGS], changed = {**before, "layers": dict(layers)}, True
    if changed:
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
