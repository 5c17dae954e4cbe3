"""Models by name: the paper's encoder, small models of three families, or any checkpoint.

Everything but the attention is the same for every attention of a comparison, so a preset is a configuration and
the name of the attention comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, BertConfig, GPT2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel

from .. import kinds
from ..hf.settings import is_ours, resolve
from ..messages import did_you_mean
from .semfocus_encoder import SemFocusEncoderConfig


@dataclass(frozen=True)
class Sizes:
    """What a preset is built from: the task's vocabulary and lengths, and the width and depth wanted.

    ``num_labels`` is None for a language model. ``activation`` is the family's own by default.
    """

    vocab_size: int
    num_labels: int | None
    pad_token_id: int | None
    max_length: int
    hidden_size: int = 64
    intermediate_size: int = 64
    num_layers: int = 5
    num_heads: int = 1
    activation: str | None = "relu"
    dropout: float = 0.01


def _paper(s: Sizes, attention: str) -> PreTrainedConfig:
    mechanism = resolve(attention, None)[0] if is_ours(attention) else None
    last = getattr(mechanism, "global_position", "first") == "last"
    return SemFocusEncoderConfig(
        **_common(s),
        intermediate_size=s.intermediate_size,
        hidden_act=s.activation or "relu",
        dropout=s.dropout,
        max_position_embeddings=s.max_length,
        num_global_tokens=mechanism.num_global_tokens if last else 0,
    )


def _gpt2(s: Sizes, attention: str) -> PreTrainedConfig:
    return GPT2Config(
        **_common(s),
        n_inner=s.intermediate_size,
        activation_function=s.activation or "gelu_new",
        n_positions=s.max_length,
        resid_pdrop=s.dropout,
        embd_pdrop=s.dropout,
        attn_pdrop=s.dropout,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=s.num_labels is None,
    )


def _bert(s: Sizes, attention: str) -> PreTrainedConfig:
    return BertConfig(
        **_common(s),
        intermediate_size=s.intermediate_size,
        hidden_act=s.activation or "gelu",
        max_position_embeddings=s.max_length,
        hidden_dropout_prob=s.dropout,
        attention_probs_dropout_prob=s.dropout,
    )


def _llama(s: Sizes, attention: str) -> PreTrainedConfig:
    return LlamaConfig(
        **_common(s),
        intermediate_size=s.intermediate_size,
        hidden_act=s.activation or "silu",
        max_position_embeddings=s.max_length,
        attention_dropout=s.dropout,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=s.num_labels is None,
    )


def _common(s: Sizes) -> dict[str, Any]:
    return {
        **({} if s.num_labels is None else {"num_labels": s.num_labels}),
        "vocab_size": s.vocab_size,
        "pad_token_id": s.pad_token_id,
        "hidden_size": s.hidden_size,
        "num_hidden_layers": s.num_layers,
        "num_attention_heads": s.num_heads,
    }


PRESETS: dict[str, Callable[[Sizes, str], PreTrainedConfig]] = {
    "paper": _paper,
    "gpt2": _gpt2,
    "bert": _bert,
    "llama": _llama,
}
FAMILIES = {"causal_lm": ("gpt2", "llama"), "masked_lm": ("bert",)}
"""Presets that make a language model of that kind; the others make classifiers only."""


def build_model(kind: str, model: str, attention: str, sizes: Sizes) -> PreTrainedModel:
    """Build a model with the attention of that name; random weights come from torch's global stream.

    Args:
        kind: what it is for, a name of :mod:`hf_semfocus.kinds`.
        model: one of ``PRESETS``, or the folder or Hub name of a checkpoint, whose weights are then loaded (in
            float32) and of whose ``sizes`` only the task's part matters.
        attention: an ``attn_implementation``, passed to Transformers as it is.
        sizes: vocabulary, lengths, width and depth.

    Raises:
        ValueError: an unknown model, one that is not of that kind, or a checkpoint whose vocabulary or positions are
            too few for the task.
    """
    wanted = kinds.get(kind)
    if model in PRESETS:
        if model not in FAMILIES.get(kind, PRESETS):
            raise ValueError(f"model={model!r} makes no {kind}; expected {', '.join(FAMILIES[kind])} or a checkpoint")
        return wanted.auto.from_config(PRESETS[model](sizes, attention), attn_implementation=attention)
    config = checkpoint_config(model)
    if not wanted.classes(config):
        raise ValueError(f"model={model!r} is of the family {config.model_type!r}, which makes no {kind}")
    if config.vocab_size < sizes.vocab_size:
        raise ValueError(f"model={model!r} has {config.vocab_size} token ids; the task needs {sizes.vocab_size}")
    positions = positions_of(config)
    if positions is not None and positions < sizes.max_length:
        raise ValueError(f"model={model!r} has {positions} positions; the task needs {sizes.max_length}")
    if sizes.num_labels is not None:
        if config.num_labels != sizes.num_labels:
            config.num_labels = sizes.num_labels
        config.pad_token_id = sizes.pad_token_id
    # safetensors only: a pickle from elsewhere could run code
    return wanted.auto.from_pretrained(
        model,
        config=config,
        attn_implementation=attention,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
    )


def checkpoint_config(model: str, presets: Sequence[str] = tuple(PRESETS)) -> PreTrainedConfig:
    """The configuration of a checkpoint in a folder or on the Hub, where some names have no owner.

    Args:
        model: folder or name.
        presets: names that would have done, too, for the error.

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


def positions_of(config: PreTrainedConfig) -> int | None:
    """Tokens a model of that configuration takes at most; None if there is no limit."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None else positions - first_position(config)


def first_position(config: PreTrainedConfig) -> int:
    """The position of the first token: RoBERTa and its kin count from after the padding token."""
    counts_on = any(name in config.model_type for name in ("roberta", "camembert", "xlm-roberta", "longformer"))
    return config.pad_token_id + 1 if counts_on else 0
