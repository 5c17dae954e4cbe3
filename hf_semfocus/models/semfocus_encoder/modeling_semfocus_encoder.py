"""The encoder of the paper and its classifier.

The embedding is scaled by sqrt(d) and gets fixed positions, no norm follows the last block, and the classifier
reads the mean over all positions.
"""

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...hf.settings import is_ours, resolve
from .blocks import SemFocusEncoderAttention, SemFocusEncoderLayer, sinusoidal_positions
from .configuration_semfocus_encoder import SemFocusEncoderConfig
from .dropout import Dropout


class SemFocusEncoderPreTrainedModel(PreTrainedModel):
    """Base of both models: initialization, and the features of Transformers that they support."""

    config: SemFocusEncoderConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SemFocusEncoderLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": SemFocusEncoderLayer,
        "attentions": SemFocusEncoderAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        limit = self.config.initializer_range
        if isinstance(module, SemFocusEncoderModel):
            table = sinusoidal_positions(*module.positions.shape, module.positions.device)
            init.copy_(module.positions, table.to(module.positions))
            if module.global_tokens is not None:
                # A generator of their own: the other weights do not depend on the number of global tokens.
                stream = torch.Generator().manual_seed(torch.initial_seed())
                start = torch.empty(module.global_tokens.shape, device="cpu")
                init.copy_(module.global_tokens, start.uniform_(-limit, limit, generator=stream))
        elif isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -limit, limit)
        elif isinstance(module, nn.Linear) and module is getattr(self, "classifier", None):
            init.uniform_(module.weight, -limit, limit)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):  # as nn.Linear itself
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)


class SemFocusEncoderModel(SemFocusEncoderPreTrainedModel):
    """The encoder without a head (arXiv 2506.14095, model of the experiments)."""

    def __init__(self, config: SemFocusEncoderConfig):
        super().__init__(config)
        _check_global_tokens(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_scale = math.sqrt(config.hidden_size)
        table = sinusoidal_positions(config.max_position_embeddings, config.hidden_size)
        self.register_buffer("positions", table, persistent=False)
        g = config.num_global_tokens
        self.global_tokens = nn.Parameter(torch.empty(g, config.hidden_size)) if g else None
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(SemFocusEncoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.embed_tokens = value

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Encode a batch.

        Args:
            input_ids: int64 ``[batch, n]``, or give ``inputs_embeds``.
            attention_mask: ``[batch, n]``, non-zero for real tokens. None: every position is a real token,
                padding included, which is how the paper's code treats padding.
            inputs_embeds: ``[batch, n, d]`` in place of the embedding's output; scaled by sqrt(d) as well.

        Returns:
            ``last_hidden_state`` ``[batch, n + g, d]``, the g learned global tokens last.

        Raises:
            ValueError: a sequence longer than ``max_position_embeddings``, a mask of another shape, or not
                exactly one of ``input_ids`` and ``inputs_embeds``.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        batch, length, _ = inputs_embeds.shape
        if length > len(self.positions):
            raise ValueError(f"sequence of length {length}; max_position_embeddings={len(self.positions)}")
        if attention_mask is not None and attention_mask.shape != (batch, length):
            shape = tuple(attention_mask.shape)
            raise ValueError(f"attention_mask of shape {shape}; expected (batch, length) = {(batch, length)}")

        hidden_states = torch.add(self.positions[:length], inputs_embeds, alpha=self.embed_scale)
        if self.global_tokens is not None:
            # No positions are added: these tokens are learned, and their place depends on the padding.
            tokens = (self.global_tokens * self.embed_scale).expand(batch, -1, -1)
            hidden_states = torch.cat([hidden_states, tokens], dim=1)
            attention_mask = _with_global_tokens(attention_mask, len(self.global_tokens))
        hidden_states = self.dropout(hidden_states)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


class SemFocusEncoderForSequenceClassification(SemFocusEncoderPreTrainedModel):
    """The encoder with a linear classifier on the mean over positions."""

    def __init__(self, config: SemFocusEncoderConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = SemFocusEncoderModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Classify a batch.

        Args:
            input_ids, attention_mask, inputs_embeds: as for ``SemFocusEncoderModel``.
            labels: int64 ``[batch]``, classes in 0..num_labels-1.

        Returns:
            ``logits`` ``[batch, num_labels]`` and, with labels, ``loss``: the mean cross entropy in nats.
        """
        outputs = self.encoder(input_ids, attention_mask, inputs_embeds=inputs_embeds, **kwargs)
        logits = self.classifier(_mean_pool(outputs.last_hidden_state, attention_mask))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def _mean_pool(hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
    if attention_mask is None:
        return hidden_states.mean(dim=1)
    keep = _with_global_tokens(attention_mask, hidden_states.shape[1] - attention_mask.shape[1]).bool()
    total = hidden_states.masked_fill(~keep[..., None], 0).sum(dim=1)
    return total / keep.sum(dim=1, keepdim=True).clamp(min=1)


def _with_global_tokens(attention_mask: Tensor | None, count: int) -> Tensor | None:
    return None if attention_mask is None else nn.functional.pad(attention_mask, (0, count), value=1)


def _check_global_tokens(config: SemFocusEncoderConfig) -> None:
    """Refuse an attention whose number of global tokens at the end differs from that of the learned tokens."""
    name = config._attn_implementation
    mechanism = resolve(name, getattr(config, "semfocus", None))[0] if is_ours(name) else None
    count = getattr(mechanism, "num_global_tokens", 0)
    if getattr(mechanism, "global_position", "first") == "last" and count != config.num_global_tokens:
        raise ValueError(
            f"attention {config._attn_implementation!r} has {count} global tokens at the end, but the encoder "
            f"appends num_global_tokens={config.num_global_tokens}; expected the same number"
        )
