"""Wrapped methods of Transformers' models, each for something that the attention interface lacks.

``get_correct_attn_implementation``  accepts ``topk_sparse:k=8``; refuses classes without the interface and bad
                                     parameters when the model is made; lists our names in its error.
``set_attn_implementation``          refuses such classes where Transformers only warns; None changes nothing; warns
                                     where a library switches to another attention.
``post_init``                        links every module to the configuration that is saved for it, and refuses models
                                     without any attention that uses the interface.
``_initialize_weights``              sets the initial values of a mechanism's parameters that a checkpoint lacks.
``_from_config``                     does not affect another model made from the same configuration.
``ContinuousBatchingManager``        is refused: its models see the caches of many requests at once.

Configurations are wrapped in ``configs.py``, adapters in ``adapters/hooks.py``. Models that use none of our names are
not affected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator
from copy import deepcopy
from typing import Any

from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.generation.continuous_batching import ContinuousBatchingManager

from ..mechanisms import names
from ..messages import did_you_mean, shown
from . import configs, state
from .attention import register
from .escapes import reported
from .layers import number_layers
from .parameters import NAME, drop_stated, pass_to_parts, stored_settings
from .settings import check_name, has_ours, is_ours, resolve
from .support import check_class, check_modules, is_part
from .switching import all_or_nothing, check, config_sources, configurations, link_configs
from .visibility import mark
from .wrapping import wrap

IMPLICIT = "_semfocus_unasked"
"""Attribute of a model that holds the dense attention it got by default."""


def apply() -> None:
    """Wrap the methods. Idempotent."""
    configs.apply()
    wrap(PreTrainedModel, "get_correct_attn_implementation", _get_correct)
    wrap(PreTrainedModel, "set_attn_implementation", _set)
    wrap(PreTrainedModel, "post_init", _post_init)
    wrap(PreTrainedModel, "_initialize_weights", state.initialize)
    wrap(PreTrainedModel, "_from_config", _from_config)
    wrap(ContinuousBatchingManager, "switch_to_cb_friendly_attn", _batch)
    wrap(ContinuousBatchingManager, "start", _start_batching)


def _get_correct(
    original: Callable[..., str],
    self: PreTrainedModel,
    requested_attention: str | None,
    *args: Any,
    **kwargs: Any,
) -> str:
    pass_to_parts(self.config)
    if is_ours(requested_attention):
        check_class(type(self), requested_attention)
        resolve(requested_attention, stored_settings(self.config))
        register(requested_attention)
    try:
        name = original(self, requested_attention, *args, **kwargs)
    except ImportError as error:  # a package of kernels that Transformers calls
        raise ImportError(
            f"attn_implementation={shown(requested_attention)} lacks a package ({' '.join(str(error).split())}); "
            f"without it, there are sdpa, eager, {', '.join(names())}"
        ) from error
    except ValueError as error:
        if "is not supported. The only possible arguments are" not in str(error):
            raise
        theirs = ["eager", *(name for name in AttentionInterface().valid_keys() if not is_ours(name))]
        parts = [re.split(r"[^\w.|-]", part)[0] for part in str(requested_attention).split("+")]
        near = did_you_mean(next((part for part in parts if part not in names()), parts[0]), [*names(), *theirs])
        raise ValueError(
            f"attn_implementation={shown(requested_attention)} is not supported{near}; hf_semfocus adds "
            f"{', '.join(names())}, each also with parameters as NAME:param=value,..., or several as NAME+NAME; "
            f"Transformers has {', '.join(theirs)}"
        ) from None
    if requested_attention is None:
        setattr(self, IMPLICIT, name)
    return name


def _set(
    original: Callable[..., None],
    self: PreTrainedModel,
    attn_implementation: str | dict[str, Any] | None,
    *args: Any,
    **kwargs: Any,
) -> None:
    check_name(attn_implementation)
    held = configurations(self)
    if any(is_ours(config._attn_implementation) for config in held):
        if attn_implementation is None:
            return
        attn_implementation = _without_none(attn_implementation)
    asked = {id(config): name for config, name in _asked(self.config, attn_implementation)}
    followed = {id(config): source for config, source in _copies(self, asked)}
    for module, source in config_sources(self):
        if isinstance(module, PreTrainedModel) and is_ours(name := asked[id(source)]):
            check_class(type(module), name)
            check_modules(module, name, whole=module is self)
    with reported(self, held), all_or_nothing(held):
        for config in held:
            drop_stated(config, config._attn_implementation, asked[id(followed.get(id(config), config))])
        original(self, attn_implementation, *args, **kwargs)
        for config in held:  # Transformers does not reach copies in layers, and before 5.23 none
            source = followed.get(id(config), config)
            if any(is_ours(each._attn_implementation) for each in (source, config)):
                setattr(config, NAME, source._attn_implementation)
        pass_to_parts(self.config)
        check(held)
        if any(map(is_ours, asked.values())):
            link_configs(self)
            number_layers(self)
            mark(self)
            state.attach(self)
    setattr(self, IMPLICIT, None)


def _without_none(value: Any) -> Any:
    """An ``attn_implementation`` without the parts that are None."""
    if not isinstance(value, dict):
        return value
    return {key: _without_none(part) for key, part in value.items() if part is not None}


def _asked(config: PreTrainedConfig, value: Any) -> Iterator[tuple[PreTrainedConfig, Any]]:
    """Every configuration with its requested implementation, for the string and the dict form."""
    yield config, value.get("") if isinstance(value, dict) else value
    for key in config.sub_configs:
        if (sub := getattr(config, key, None)) is not None:
            yield from _asked(sub, value.get(key) if isinstance(value, dict) else value)


def _copies(model: PreTrainedModel, asked: Container[int]) -> Iterator[tuple[PreTrainedConfig, PreTrainedConfig]]:
    """Every configuration of a module that is not saved, such as a copy, with the saved one that it follows."""

    def follow(config: PreTrainedConfig, source: PreTrainedConfig) -> Iterator:
        if id(config) not in asked:
            yield config, source
        for key in config.sub_configs:
            if (part := getattr(config, key, None)) is not None:
                yield from follow(part, getattr(source, key, None) or source)

    for module, source in config_sources(model):
        if isinstance(module.config, PreTrainedConfig):
            yield from follow(module.config, source)


def _post_init(original: Callable[..., None], self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
    original(self, *args, **kwargs)
    if is_ours(name := self.config._attn_implementation):
        whole = not is_part(self)
        check_modules(self, name, whole)
        link_configs(self)
        number_layers(self, whole)
        mark(self)
        state.attach(self)


def _from_config(
    original: Callable[..., PreTrainedModel], cls: type[PreTrainedModel], config: PreTrainedConfig, **kwargs: Any
) -> PreTrainedModel:
    before, asked = config._attn_implementation, kwargs.get("attn_implementation")
    # a model made from this configuration holds it, and would change with it
    if None not in (before, asked) and asked != before and (has_ours(asked) or is_ours(before)):
        config = deepcopy(config)
    return original(cls, config, **kwargs)


def _batch(original: Callable[..., None], self: Any, model: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
    _refuse_batching(model)
    original(self, model, *args, **kwargs)


def _start_batching(original: Callable[..., None], self: Any, *args: Any, **kwargs: Any) -> None:
    _refuse_batching(self.model)
    original(self, *args, **kwargs)


def _refuse_batching(model: PreTrainedModel) -> None:
    for config in configurations(model):
        if is_ours(name := config._attn_implementation):
            raise ValueError(
                f"continuous batching does not support attn_implementation={name!r} yet; expected model.generate, or "
                "another attention, e.g. model.set_attn_implementation('sdpa')"
            )
