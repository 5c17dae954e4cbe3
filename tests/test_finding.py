"""Selections that kernels find: the same keys as the formula's, without a matrix of scores."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_semfocus import sparse_attention
from hf_semfocus.attention.problem import Problem
from hf_semfocus.attention.visibility import Visibility
from hf_semfocus.backends import BACKENDS
from hf_semfocus.backends.lists.native import build
from hf_semfocus.mechanisms import build as made

pytestmark = pytest.mark.skipif(isinstance(missing := build.load(), str), reason=f"no compiled kernels: {missing}")
FOUND = [
    "banded_sparse:window=5+topk_sparse:k=4",
    "sink_sparse:first=2+banded_sparse:window=3+bottomk_sparse:k=7",
    "strided_sparse:window=2,stride=7+topk_sparse:k=60",
    "banded_sparse:window=3,num_global_tokens=2+topk_sparse:k=3",
    "block_topk_sparse:block_size=4,k=3",
    "block_topk_sparse:block_size=7,k=2",
    "block_topk_sparse:block_size=16,k=1",
    "block_topk_sparse:block_size=3,k=30",
]


class Largest(TorchDispatchMode):
    """The most entries of a floating tensor that an operation makes."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.entries = max(self.entries, math.prod(tensor.shape))
        return made


def integers(*shape):
    """Scores of these have no rounding errors, and many ties."""
    return torch.randint(-2, 3, shape).float()


def padding(batch, keys):
    """Hidden keys at the start of the first sequence and at the end of the last."""
    mask = torch.ones(batch, 1, 1, keys, dtype=torch.bool)
    mask[0, ..., :9] = mask[-1, ..., -6:] = False
    return mask


@pytest.mark.parametrize("hidden", ["none", "padding", "pairs"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("spec", FOUND)
def test_equals_the_formula_with_ties(spec, causal, hidden, monkeypatch):
    monkeypatch.setattr("hf_semfocus.backends.chunked.CHUNK_SCORES", 50 * 13)  # several chunks
    check_formula(spec, causal, hidden)


def check_formula(spec, causal, hidden):
    """Output and gradients of the kernels against the formula in float64, on scores with ties."""
    mask = {"none": None, "padding": padding(2, 50), "pairs": torch.rand(2, 1, 41, 50) < 0.7}[hidden]
    if hidden == "pairs":
        mask |= torch.eye(50, dtype=torch.bool)[9:]  # no query but sees itself
    tensors = [integers(2, 4, 41, 5), integers(2, 2, 50, 5), torch.randn(2, 2, 50, 6)]
    rows = torch.ones(41, dtype=torch.bool) if hidden != "padding" else mask[:, 0, 0, 9:].view(2, 1, 41)
    results = []
    for backend, dtype in (("native", torch.float32), ("eager", torch.float64)):
        inputs = [t.to(dtype, copy=True).requires_grad_() for t in tensors]
        given = {"attn_mask": mask, "is_causal": causal, "scale": 0.5, "enable_gqa": True, "backend": backend}
        out = sparse_attention(*inputs, spec, **given)
        out = out * rows.unsqueeze(-1)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for ours, true in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", FOUND)
def test_no_matrix_of_scores(spec):
    query, key, value = (torch.randn(1, 2, 400, 4, requires_grad=True) for _ in range(3))
    mechanism = made(spec)
    problem = Problem(query, key, value, Visibility.between(400, 400, query.device, causal=True), 1.0)
    seen = {}
    for backend in ("native", "chunked"):
        with Largest() as largest:
            BACKENDS[backend].attend(mechanism, problem)[0].sum().backward()
        seen[backend] = largest.entries
    assert seen["chunked"] == 2 * 400 * 400
    assert seen["native"] <= 2 * 400 * mechanism.budget(400)


@pytest.mark.parametrize("spec", FOUND)
def test_a_query_with_a_cache_finds_what_it_finds_in_the_whole(spec):
    query, key, value = torch.randn(3, 1, 2, 60, 4).unbind()
    whole = sparse_attention(query, key, value, spec, is_causal=True, backend="native")
    for at in (0, 7, 59):
        step = (query[:, :, at : at + 1], key[:, :, : at + 1], value[:, :, : at + 1])
        last = sparse_attention(*step, spec, is_causal=True, backend="native")
        torch.testing.assert_close(last, whole[:, :, at : at + 1])


def test_not_a_number_shows_where_it_is_seen():
    spec = "banded_sparse:window=2+topk_sparse:k=2"
    query, key, value = torch.randn(3, 1, 1, 20, 4).unbind()
    key[0, 0, 5] = torch.nan
    out = sparse_attention(query, key, value, spec, is_causal=True, backend="native")
    assert out[0, 0, :5].isfinite().all()
    assert out[0, 0, 5:].isnan().all()
