"""Full attention by PyTorch's ``scaled_dot_product_attention``, for what keeps every key."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..attention.problem import Problem
from ..mechanisms import Mechanism
from .limits import Limits

LIMITS = Limits(keeps="all", one_dtype=True, softcap=False, sinks=False, weights=False, in_graphs=True)


def attend(mechanism: Mechanism, problem: Problem, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
    """See :func:`hf_semfocus.backends.attend`."""
    problem = problem.blank_unseen()
    visibility, bias, (*_, queries, keys) = problem.visibility, problem.bias, problem.shape
    plain = visibility.mask is None and bias is None
    causal = plain and visibility.causal and visibility.first == 0 and queries == keys
    mask = None if plain and (causal or not visibility.causal) else problem.allowed
    if bias is not None:
        mask = bias.masked_fill(~mask, float("-inf")).to(problem.query.dtype)
    output = F.scaled_dot_product_attention(
        *(problem.query, problem.key, problem.value),
        attn_mask=mask,
        dropout_p=problem.dropout_p,
        is_causal=causal,
        scale=problem.scale,
        enable_gqa=problem.query.shape[1] != problem.key.shape[1],
    )
    return output, None
