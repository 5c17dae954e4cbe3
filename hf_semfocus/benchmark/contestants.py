"""The compared implementations: ours, PyTorch's, and others that are installed and support the case."""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import hf_semfocus

from ..mechanisms import build
from . import bitmap
from .cases import Case
from .inputs import Attend, Inputs, mask_of

OURS, SDPA, EAGER, XTRANSFORMERS, FLEX, ADASPLASH = "ours", "sdpa", "eager", "x-transformers", "flex", "adasplash"
CUDNN, BITMAP = "sdpa (cuDNN)", "bitmap"
DENSE = (SDPA, CUDNN, FLEX, ADASPLASH)
"""Contestants that do not depend on the mechanism, so that cases of one shape share them."""
NOTES = {
    OURS: "hf_semfocus, on a CPU in float32 whatever the type of the tensors, which are converted",
    SDPA: "torch.nn.functional.scaled_dot_product_attention, all keys; on CUDA its flash backend, "
    "which takes no padding: there the one that PyTorch chooses",
    CUDNN: "the same by its cuDNN backend",
    BITMAP: "our lists as a bitmap that torch's flex_attention reads, compiled: a prototype",
    EAGER: "the same mechanism on dense scores",
    XTRANSFORMERS: "Attend(sparse_topk=k) of x-transformers, which keeps more than k keys where scores tie",
    FLEX: "torch's flex_attention, compiled, all keys",
    ADASPLASH: "adasplash, alpha 1.5: another sparse attention, whose number of keys depends on the scores",
}
PEERS = (EAGER, CUDNN, BITMAP, XTRANSFORMERS, FLEX, ADASPLASH)
"""Contestants that a run can leave out."""
DENSE_MATRICES = 8
"""Approximate number of score matrices that a dense implementation holds in a forward and a backward pass."""


def contestants(case: Case, backend: str, device: torch.device) -> tuple[dict[str, Attend], dict[str, str]]:
    """The implementations that can run a case.

    Args:
        case: the problem.
        backend: the backend of ours.
        device: the device.

    Returns:
        Functions of query, key and value by name; and the reasons for those that are left out.
    """
    found: dict[str, Attend] = {OURS: partial(sparse, case=case, backend=backend), SDPA: partial(_sdpa, case=case)}
    left_out = {}
    peers = (
        (partial(sparse, case=case, backend="eager"), _too_large(case, device)),
        (partial(_sdpa, case=case, backend=SDPBackend.CUDNN_ATTENTION), _no_cudnn(case, device)),
        (partial(bitmap.attend, case=case), bitmap.objection(case, device)),
        (partial(_x_transformers, case=case), _no_x_transformers(case) or _too_large(case, device)),
        (partial(_flex, case=case), _no_flex(case, device)),
        (partial(_adasplash, case=case), _no_adasplash(case, device)),
    )
    for name, (make, reason) in zip(PEERS, peers, strict=True):
        if reason is None:
            found[name] = make
        else:
            left_out[name] = reason
    return found, left_out


def chosen(case: Case, inputs: Inputs, backend: str) -> str:
    """The backend that computes a case: ``backend``, or what "auto" takes."""
    if backend != "auto":
        return backend
    query, key, value, _ = inputs
    options = {"is_causal": case.causal, "enable_gqa": case.grouped, "attn_mask": mask_of(case, query.device)}
    return hf_semfocus.explain(query, key, value, case.mechanism, **options).chosen


def sparse(query: Tensor, key: Tensor, value: Tensor, *, case: Case, backend: str, **options: Any) -> Tensor:
    """Ours; the keys may be the first ones of the case."""
    mask = mask_of(case, query.device)
    if mask is not None:
        options["attn_mask"] = mask[..., : key.shape[2]]
    return hf_semfocus.sparse_attention(
        query,
        key,
        value,
        case.mechanism,
        is_causal=case.causal,
        enable_gqa=case.grouped,
        backend=backend,
        **options,
    )


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, *, case: Case, backend: SDPBackend = SDPBackend.FLASH_ATTENTION
) -> Tensor:
    mask = _with_causality(case, query.device)
    # its is_causal counts positions from the first, so that the one query of decoding would see a single key
    attend = partial(
        F.scaled_dot_product_attention, attn_mask=mask, is_causal=case.causal and case.queries > 1 and mask is None
    )
    if case.grouped:
        attend = partial(attend, enable_gqa=True)
    if query.is_cuda and case.dtype != "float32" and not (mask is not None and backend == SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(backend):
            return attend(query, key, value)
    return attend(query, key, value)


@lru_cache(maxsize=1)
def _with_causality(case: Case, device: torch.device) -> Tensor | None:
    """The mask of a padded case with causality, which PyTorch takes together only as a mask of pairs."""
    mask = mask_of(case, device)
    if mask is None or not case.causal or case.queries == 1:
        return mask
    return mask & torch.ones(case.keys, case.keys, dtype=torch.bool, device=device).tril()


def _no_cudnn(case: Case, device: torch.device) -> str | None:
    return None if device.type == "cuda" and case.dtype != "float32" else "runs on CUDA in half precision only"


def _x_transformers(query: Tensor, key: Tensor, value: Tensor, *, case: Case) -> Tensor:
    return _attend(build(case.mechanism).k, case.causal)(query, key, value)[0]


@cache
def _attend(k: int, causal: bool) -> Any:
    from x_transformers.attend import Attend as XAttend

    return XAttend(sparse_topk=k, causal=causal)


def _no_x_transformers(case: Case) -> str | None:
    if not case.mechanism.startswith("topk_sparse"):
        return "supports top-k only"
    if case.content == "padded":
        return "is compared without padding"
    if case.grouped:
        return "orders groups of heads differently"
    return None if _installed("x_transformers") else "not installed; pip install x-transformers"


def _flex(query: Tensor, key: Tensor, value: Tensor, *, case: Case) -> Tensor:
    attend, mask = _compiled(case.queries, case.keys, case.causal, query.device)
    return attend(query, key, value, block_mask=mask, enable_gqa=case.grouped)


@cache
def _compiled(queries: int, keys: int, causal: bool, device: torch.device) -> tuple[Any, Any]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = None
    if causal and queries > 1:
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, queries, keys, device=device.type)
    return torch.compile(flex_attention), mask


def _no_flex(case: Case, device: torch.device) -> str | None:
    if case.content == "padded":
        return "is compared without padding"
    return None if device.type == "cuda" else "has no backward pass on a CPU"


def _adasplash(query: Tensor, key: Tensor, value: Tensor, *, case: Case) -> Tensor:
    from adasplash import adasplash

    return adasplash(query, key, value, alpha=1.5, is_causal=case.causal)


def _no_adasplash(case: Case, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "runs on CUDA only"
    if case.direction == "decode" or case.grouped or case.content == "padded":
        return "is compared in training without padding, with as many key heads as query heads"
    return None if _installed("adasplash") else "not installed; pip install adasplash"


def _too_large(case: Case, device: torch.device) -> str | None:
    """Why dense scores do not fit: checked beforehand, as a CPU process without memory is killed."""
    if device.type == "cuda":
        room = 0.9 * torch.cuda.mem_get_info(device)[0]
    else:
        import psutil  # not needed on a GPU

        room = 0.5 * psutil.virtual_memory().available
    needed = DENSE_MATRICES * case.bytes_of_scores()
    return None if needed <= room else f"takes about {needed / 1e9:.0f} GB, {DENSE_MATRICES} dense matrices of scores"


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
