"""Checkpoints in a folder or on the Hub: their configuration, weights and number of positions."""

from __future__ import annotations

from collections.abc import Collection

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..kinds import Kind
from ..messages import did_you_mean


def checkpoint_config(model: str, presets: Collection[str] = ()) -> PreTrainedConfig:
    """The configuration of a checkpoint in a folder or on the Hub.

    Args:
        model: folder or name.
        presets: other names that the caller accepts, for the error.

    Raises:
        ValueError: there is none.
    """
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        choices = f"one of {', '.join(presets)}, " if presets else ""
        reason = " ".join(str(error).split())
        raise ValueError(
            f"model={model!r}{did_you_mean(model, presets)}; expected {choices}a folder or a name on the Hub, with a "
            f"model: {reason}"
        ) from error


def load_checkpoint(kind: Kind, model: str, attention: str, config: PreTrainedConfig) -> PreTrainedModel:
    """A checkpoint with its weights in float32; no code of a model is ever run.

    Args:
        kind: its kind.
        model: folder or name.
        attention: an ``attn_implementation``.
        config: its configuration.

    Raises:
        ValueError: there are no weights in safetensors, or the model does not take the attention.
    """
    try:
        return kind.auto.from_pretrained(
            model,
            config=config,
            attn_implementation=attention,
            dtype=torch.float32,
            use_safetensors=True,  # a pickle could run code
            trust_remote_code=False,
        )
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"model={model!r}: no weights can be read ({reason}); expected model.safetensors") from error


def positions_of(config: PreTrainedConfig) -> int | None:
    """The longest sequence for a configuration; None if there is no limit."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None else positions - first_position(config)


def first_position(config: PreTrainedConfig) -> int:
    """The position of the first token: RoBERTa and related models count from ``pad_token_id + 1``."""
    counts_on = any(name in config.model_type for name in ("roberta", "camembert", "xlm-roberta", "longformer"))
    return config.pad_token_id + 1 if counts_on else 0
