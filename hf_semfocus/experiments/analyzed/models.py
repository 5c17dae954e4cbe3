"""A checkpoint or an adapter with the attention it is given."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ... import kinds
from ...adapters.entry import ENTRY
from ...adapters.entry import FILE as ADAPTER
from ...adapters.loading import load_adapter
from ...hf import configure
from ...hf.parameters import stored_settings
from ...hf.settings import is_ours, resolve
from ...mechanisms import fields
from ...models.checkpoints import checkpoint_config
from ..swap_options import DENSE


@dataclass(frozen=True)
class Model:
    """A checkpoint, and the attention it is given.

    Attributes:
        path: folder, or name on the Hub.
        attention: its name; None for the checkpoint's own.
    """

    path: str
    attention: str | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter of PEFT."""
        return (Path(self.path) / ADAPTER).exists()

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The configuration of the checkpoint, or of the model that an adapter makes.

        Raises:
            ValueError: there is none.
        """
        return self.load().config if self.is_adapter else checkpoint_config(self.path)

    @cached_property
    def own_attention(self) -> str:
        """The attention that is in force, with its size and the parameters that are not at their defaults."""
        name = self.attention or self.config._attn_implementation or DENSE
        if not is_ours(name):
            return name
        mechanism, _ = resolve(name, None if self.attention else stored_settings(self.config))
        held = {field: (getattr(mechanism, field), each.default) for field, each in fields(type(mechanism)).items()}
        stated = [f"{field}={value}" for field, (value, default) in held.items() if value != default or field == "k"]
        return f"{mechanism.name}:{','.join(stated)}" if stated else mechanism.name

    def load(self) -> PreTrainedModel:
        """The model in float32, in evaluation mode, with its attention.

        Raises:
            ValueError: there is none, or it does not take the attention.
        """
        try:
            model = _adapted(self.path) if self.is_adapter else _whole(self.path, kind_of(self.config))
        except (OSError, RuntimeError) as error:
            raise ValueError(f"model={self.path!r} has no weights that can be read: {error}") from error
        if self.attention is not None:
            configure(model, self.attention)
        return model.eval()


def kind_of(config: PreTrainedConfig) -> kinds.Kind:
    """What a checkpoint is for, from the class it was saved by; its features, if no kind has that class."""
    return kinds.of_class(config) or kinds.get("features")


def _whole(path: str, kind: kinds.Kind) -> PreTrainedModel:
    return kind.auto.from_pretrained(path, dtype=torch.float32, trust_remote_code=False)


def _adapted(path: str) -> PreTrainedModel:
    """An adapter on its base model, with the attention that it names, if it does."""
    from peft import PeftConfig, PeftModel

    if ENTRY in json.loads((Path(path) / ADAPTER).read_text(encoding="utf-8")):
        return load_adapter(path)
    config = PeftConfig.from_pretrained(path)
    kind = next((each for each in kinds.KINDS if each.peft == config.task_type), kinds.get("features"))
    return PeftModel.from_pretrained(_whole(config.base_model_name_or_path, kind), path)
