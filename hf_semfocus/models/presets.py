"""Models by name: the paper's encoder, small models of three families, or any checkpoint.

In a comparison, models differ only in their attention, so a preset makes a configuration from sizes and the name of
an attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import BertConfig, GPT2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from .. import kinds
from ..hf.settings import is_ours, resolve
from ..messages import check_integer, did_you_mean
from .checkpoints import checkpoint_config, load_checkpoint, positions_of
from .semfocus_encoder import SemFocusEncoderConfig


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model: the task's vocabulary and lengths, width and depth.

    ``num_labels`` is None for a language model. ``activation`` is the family's by default.
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


@dataclass(frozen=True)
class Preset:
    """A family of models that is built from sizes.

    Attributes:
        family: its configuration.
        activation: its default activation.
        dropouts: fields with a probability of dropout.
        language: the kind of language model it makes, if any; all make classifiers.
        width_field, activation_field: fields of the MLP.
    """

    family: type[PreTrainedConfig]
    activation: str
    dropouts: tuple[str, ...]
    language: str | None = None
    width_field: str = "intermediate_size"
    activation_field: str = "hidden_act"

    def config(self, sizes: Sizes, attention: str) -> PreTrainedConfig:
        """The configuration of those sizes; the paper's encoder gets the global tokens that an attention needs.

        Raises:
            ValueError: sizes that no model of the family can have, or an attention that takes no dropout.
        """
        self._check(sizes, attention)
        given = {
            "vocab_size": sizes.vocab_size,
            "pad_token_id": sizes.pad_token_id,
            "hidden_size": sizes.hidden_size,
            "num_hidden_layers": sizes.num_layers,
            "num_attention_heads": sizes.num_heads,
            "max_position_embeddings": sizes.max_length,
            self.width_field: sizes.intermediate_size,
            self.activation_field: sizes.activation or self.activation,
            **dict.fromkeys(self.dropouts, sizes.dropout),
        }
        if sizes.num_labels is not None:
            given["num_labels"] = sizes.num_labels
        if self.language == "causal_lm":
            given |= {"bos_token_id": None, "eos_token_id": None, "use_cache": sizes.num_labels is None}
        if self.family is SemFocusEncoderConfig and is_ours(attention):
            mechanism = resolve(attention, None)[0]
            if getattr(mechanism, "global_position", "first") == "last":
                given["num_global_tokens"] = mechanism.num_global_tokens
        return self.family(**given)

    def _check(self, sizes: Sizes, attention: str) -> None:
        """Refuse what Transformers and PyTorch would refuse later, in terms of other names, or never."""
        if attention == "flex_attention" and sizes.dropout:
            raise ValueError(f"attention={attention!r} takes no dropout, but dropout={sizes.dropout!r}; expected 0")
        if self.family is SemFocusEncoderConfig:  # which checks its fields
            return
        for name in ("hidden_size", "intermediate_size", "num_layers", "num_heads"):
            check_integer(name, getattr(sizes, name), 1)
        unit = sizes.num_heads * (2 if self.family is LlamaConfig else 1)  # whose positions turn pairs of numbers
        if sizes.hidden_size % unit:
            raise ValueError(
                f"hidden_size={sizes.hidden_size!r} with num_heads={sizes.num_heads!r}; expected a multiple of {unit}"
            )
        if not 0 <= sizes.dropout < 1:
            raise ValueError(f"dropout={sizes.dropout!r}; expected a number in [0, 1)")
        if sizes.activation is not None and sizes.activation not in ACT2FN:
            hint = did_you_mean(sizes.activation, ACT2FN)
            raise ValueError(f"activation={sizes.activation!r}{hint}; expected one of {', '.join(ACT2FN)}")


PRESETS = {
    "paper": Preset(SemFocusEncoderConfig, "relu", ("dropout",)),
    "gpt2": Preset(
        GPT2Config,
        "gelu_new",
        ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        language="causal_lm",
        width_field="n_inner",
        activation_field="activation_function",
    ),
    "bert": Preset(BertConfig, "gelu", ("hidden_dropout_prob", "attention_probs_dropout_prob"), language="masked_lm"),
    "llama": Preset(LlamaConfig, "silu", ("attention_dropout",), language="causal_lm"),
}


def build_model(kind: str, model: str, attention: str, sizes: Sizes) -> PreTrainedModel:
    """Build a model with the attention of that name; random weights come from torch's global generator.

    Args:
        kind: the kind of model, a name of :mod:`hf_semfocus.kinds`.
        model: one of ``PRESETS``, or the folder or Hub name of a checkpoint, whose weights are loaded in
            float32; of ``sizes`` it only needs the task's.
        attention: an ``attn_implementation``, passed to Transformers as it is.
        sizes: vocabulary, lengths, width and depth.

    Raises:
        ValueError: an unknown model, one that is not of that kind, or a checkpoint whose vocabulary or positions are
            too few for the task.
    """
    wanted = kinds.get(kind)
    if model in PRESETS:
        fit = [name for name, preset in PRESETS.items() if preset.language == kind]
        if fit and model not in fit:
            raise ValueError(f"model={model!r} cannot be a {kind}; expected {', '.join(fit)} or a checkpoint")
        return wanted.auto.from_config(PRESETS[model].config(sizes, attention), attn_implementation=attention)
    config = checkpoint_config(model, presets=PRESETS)
    if not wanted.classes(config):
        raise ValueError(f"model={model!r} is of the family {config.model_type!r}, which cannot be a {kind}")
    if config.vocab_size < sizes.vocab_size:
        raise ValueError(f"model={model!r} has {config.vocab_size} token ids; the task needs {sizes.vocab_size}")
    positions = positions_of(config)
    if positions is not None and positions < sizes.max_length:
        raise ValueError(f"model={model!r} has {positions} positions; the task needs {sizes.max_length}")
    if sizes.num_labels is not None:
        if config.num_labels != sizes.num_labels:
            config.num_labels = sizes.num_labels
        config.pad_token_id = sizes.pad_token_id
    return load_checkpoint(wanted, model, attention, config)
