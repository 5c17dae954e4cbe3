"""Positions, attention, MLP and the pre-norm block of the paper's encoder.

They differ from a standard encoder in ways that matter for a reproduction: every head is as wide as a token,
LayerNorm has no parameters (and eps 0 in front of the very first attention), and dropout in the MLP comes before
the activation.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_semfocus_encoder import SemFocusEncoderConfig
from .dropout import Dropout


def sinusoidal_positions(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Fixed position vectors: sine in the even columns, cosine in the odd ones.

    Returns:
        float32 ``[length, width]``; columns 2i and 2i + 1 have the frequency ``10000 ** (-2i / width)``.
    """
    position = torch.arange(length, dtype=torch.float64, device=device)[:, None]
    angle = position * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
    table = torch.empty(length, width, dtype=torch.float32, device=device)
    table[:, 0::2] = torch.sin(angle)
    table[:, 1::2] = torch.cos(angle[:, : width // 2])
    return table


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[Tensor, Tensor]:
    """Plain attention on ``[batch, heads, n, d]``; returns ``[batch, n, heads, d]`` and the weights."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights


class SemFocusEncoderAttention(nn.Module):
    """Multi-head attention whose heads all have the width of a token: d -> H * d -> d, with biases."""

    def __init__(self, config: SemFocusEncoderConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = False
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.dropout = config.dropout
        width = config.num_attention_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width)
        self.k_proj = nn.Linear(config.hidden_size, width)
        self.v_proj = nn.Linear(config.hidden_size, width)
        self.o_proj = nn.Linear(width, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within ``hidden_states`` ``[batch, n, d]``; the weights only if the implementation returns them."""
        batch, length, _ = hidden_states.shape
        shape = (batch, length, -1, self.head_dim)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, weights = attend(
            self,
            self.q_proj(hidden_states).view(shape).transpose(1, 2),
            self.k_proj(hidden_states).view(shape).transpose(1, 2),
            self.v_proj(hidden_states).view(shape).transpose(1, 2),
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(mixed.reshape(batch, length, -1)), weights


class SemFocusEncoderMLP(nn.Module):
    """d -> d_mlp -> d; dropout acts before the activation, as in the paper."""

    def __init__(self, config: SemFocusEncoderConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Apply to every position of ``[batch, n, d]``."""
        return self.down_proj(self.activation(self.dropout(self.up_proj(hidden_states))))


class SemFocusEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm block: x + dropout(attention(norm(x))), then x + dropout(mlp(norm(x)))."""

    def __init__(self, config: SemFocusEncoderConfig, layer_idx: int):
        super().__init__()
        eps = 0.0 if layer_idx == 0 else 1e-5
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=eps, elementwise_affine=False)
        self.attention = SemFocusEncoderAttention(config, layer_idx)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=1e-5, elementwise_affine=False)
        self.mlp = SemFocusEncoderMLP(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        """Apply the block to ``[batch, n, d]``."""
        mixed, _ = self.attention(self.attention_norm(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + self.dropout(mixed)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))
