"""Configuration of the paper's encoder: sizes, activation, dropout and the learned global tokens.

Values out of range are refused here, before a model is built.
"""

import math
from typing import Any

from transformers import PreTrainedConfig

from ...messages import check_integer

ACTIVATIONS = ("relu", "gelu", "mish")


class SemFocusEncoderConfig(PreTrainedConfig):
    """Configuration of the encoder classifier of "Transformers Learn Faster with Semantic Focus".

    The defaults are those of the paper's synthetic tasks (arXiv 2506.14095, experiments).

    Args:
        vocab_size: number of token ids, the padding id included.
        hidden_size: width d of a token, and of *every* attention head.
        num_hidden_layers: number of pre-norm blocks.
        num_attention_heads: number of heads H; the projections map d to H * d.
        intermediate_size: width of the MLP's hidden layer.
        hidden_act: activation of the MLP: "relu", "gelu" or "mish".
        dropout: probability of dropout: after the embedding, on the attention weights, inside the MLP, and on what
            attention and MLP add to the residual stream.
        max_position_embeddings: longest sequence, learned global tokens not counted.
        initializer_range: embedding and classifier weights start uniform in [-range, range].
        num_global_tokens: learned tokens appended at the end of every sequence; never masked, counted in the
            mean over positions. A mechanism with global tokens needs the same number and
            ``global_position=last``.
        pad_token_id: id that padding uses. Padding is excluded by ``attention_mask`` only, never by its id.

    Raises:
        ValueError: a value outside its range.
    """

    model_type = "semfocus_encoder"

    vocab_size: int = 16
    hidden_size: int = 64
    num_hidden_layers: int = 5
    num_attention_heads: int = 1
    intermediate_size: int = 64
    hidden_act: str = "relu"
    dropout: float = 0.01
    max_position_embeddings: int = 1024
    initializer_range: float = 0.1
    num_global_tokens: int = 0
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any):
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
        ):
            setattr(self, name, check_integer(name, getattr(self, name), 1))
        self.num_global_tokens = check_integer("num_global_tokens", self.num_global_tokens, 0)
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act={self.hidden_act!r}; expected one of {', '.join(ACTIVATIONS)}")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout!r}; expected a number in [0, 1)")
        if not _is_number(self.initializer_range) or not self.initializer_range > 0:
            raise ValueError(f"initializer_range={self.initializer_range!r}; expected a positive number")
        if self.pad_token_id is not None:
            self.pad_token_id = check_integer("pad_token_id", self.pad_token_id, 0)
            if self.pad_token_id >= self.vocab_size:
                raise ValueError(
                    f"pad_token_id={self.pad_token_id}; expected an id below vocab_size={self.vocab_size}"
                )
        super().__post_init__(**kwargs)

    @property
    def head_dim(self) -> int:
        """Width of one attention head, which in this model is the width of a token."""
        return self.hidden_size


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
