"""``sparse_attention``'s calling convention: masks of every kind, and errors for what does not fit."""

from dataclasses import dataclass

import pytest
import torch

import hf_semfocus
from hf_semfocus import mechanisms, sparse_attention
from hf_semfocus.mechanisms import Mechanism, register, registry


def tensors(heads=2, queries=6, keys=6, dim=4, dtype=torch.float32):
    return (torch.randn(2, heads, n, dim, dtype=dtype) for n in (queries, keys, keys))


def test_mask_kinds_agree():
    q, k, v = tensors()
    allowed = (torch.rand(2, 1, 6, 6) < 0.6) | torch.eye(6, dtype=torch.bool)
    boolean = sparse_attention(q, k, v, "topk_sparse", k=2, attn_mask=allowed)
    for fill in (-torch.inf, torch.finfo(torch.float32).min):
        additive = torch.zeros(2, 1, 6, 6).masked_fill(~allowed, fill)
        assert torch.equal(sparse_attention(q, k, v, "topk_sparse", k=2, attn_mask=additive), boolean)


@pytest.mark.parametrize(
    "shape", [(6,), (1, 6), (6, 6), (2, 6, 6), (1, 2, 6, 6), (2, 1, 6, 6), (2, 1, 1, 6), (2, 2, 6, 1)]
)
@pytest.mark.parametrize("backend", ["eager", "chunked", "gather"])
def test_masks_and_biases_broadcast(shape, backend):
    q, k, v = tensors(dtype=torch.float64)
    full = (2, 2, 6, 6)
    bias = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    outs = []
    for mask in (bias, bias.expand(full)):
        out, weights = sparse_attention(
            q, k, v, "topk_sparse", k=3, attn_mask=mask, backend=backend, return_weights=True
        )
        outs.append((out, weights, *torch.autograd.grad(out.sin().sum(), bias)))
    for one, other in zip(*outs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_finite_bias_moves_the_choice_and_the_weights():
    q, k, v = tensors(dtype=torch.float64)
    bias = torch.zeros(6, 6, dtype=torch.float64)
    bias[:, 4] = 50.0
    _, weights = sparse_attention(q, k, v, "topk_sparse", k=1, attn_mask=bias, return_weights=True)
    assert (weights[..., 4] == 1).all()
    # a heavy penalty is not a mask: with nothing else to keep, the key is kept
    bias = torch.full((6, 6), -1e4, dtype=torch.float64)
    _, weights = sparse_attention(q, k, v, "topk_sparse", k=1, attn_mask=bias, return_weights=True)
    assert (weights.sum(-1) == 1).all()


def test_mask_and_is_causal_both_apply():
    q, k, v = tensors()
    padding = torch.tensor([False, True, True, True, True, True])
    both = sparse_attention(q, k, v, "topk_sparse", k=2, attn_mask=padding, is_causal=True)
    merged = sparse_attention(q, k, v, "topk_sparse", k=2, attn_mask=padding & torch.ones(6, 6).tril().bool())
    torch.testing.assert_close(both, merged, rtol=0, atol=0)
    assert (both[:, :, 0] == 0).all()


def test_parameters_in_the_name_win():
    q, k, v = tensors()
    assert torch.equal(
        sparse_attention(q, k, v, "topk_sparse:k=2", k=5), sparse_attention(q, k, v, "topk_sparse", k=2)
    )


def test_scale():
    q, k, v = tensors()
    torch.testing.assert_close(
        sparse_attention(q, k, v, "topk_sparse", k=3, scale=1.0), sparse_attention(q * 2, k, v, "topk_sparse", k=3)
    )


def test_weights_and_output_types():
    q, k, v = tensors(dtype=torch.bfloat16)
    out, weights = sparse_attention(q, k, v, "topk_sparse", k=3, return_weights=True)
    assert (out.dtype, weights.dtype, weights.shape) == (torch.bfloat16, torch.bfloat16, (2, 2, 6, 6))
    assert isinstance(sparse_attention(q, k, v, "topk_sparse"), torch.Tensor)


@pytest.mark.parametrize(
    ("mechanism", "params", "message"),
    [
        (
            "topk",
            {},
            r"unknown mechanism 'topk' \(did you mean 'topk_sparse'\?\); expected one of asentmax_sparse, ",
        ),
        ("topk_sparse", {"k": 0}, r"topk_sparse: k=0 is not allowed; expected an integer of at least 1"),
        ("topk_sparse", {"k": -3}, "k=-3"),
        ("topk_sparse", {"k": 2.0}, "k=2.0"),
        ("topk_sparse", {"k": "2"}, "k='2'"),
        ("topk_sparse", {"k": True}, "k=True"),
        ("topk_sparse", {"k": None}, "k=None"),
        ("topk_sparse", {"window": 3}, r"no parameter 'window' \('window' belongs to banded_sparse, strided_sparse\)"),
        ("topk_sparse", {"q": 3}, r"no parameter 'q'; expected some of k"),
        ("topk_sparse:k", {}, r"cannot read 'k' in 'topk_sparse:k'; expected NAME:param=value"),
        ("topk_sparse:", {}, r"cannot read ''.*, with parameters k, share, gradient$"),
        ("topk_sparse:k=1,k=2", {}, "cannot read 'k=2'.* gradient, each once$"),
        ("topk_sparse:k=2.5", {}, "k=2.5 is not"),
        ("banded_sparse", {"window": 0}, "window=0"),
        ("banded_sparse", {"edge": "round"}, "edge='round' is not allowed; expected one of 'shifted', 'cut'"),
        ("banded_sparse", {"num_global_tokens": -1}, "num_global_tokens=-1.*at least 0"),
        ("banded_sparse", {"global_position": "middle"}, "expected one of 'first', 'last'"),
        ("block_local_sparse", {"block_size": 0}, "block_size=0"),
        ("strided_sparse", {"stride": 0}, "stride=0"),
        ("random_sparse", {"seed": -1}, "seed=-1"),
    ],
)
def test_bad_parameters_name_value_and_choices(mechanism, params, message):
    with pytest.raises(ValueError, match=message):
        sparse_attention(*tensors(), mechanism, **params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "cuda"}, "unknown backend 'cuda'; expected one of auto, native, "),
        ({"dropout_p": 1.0}, "dropout_p=1.0"),
        ({"dropout_p": float("nan")}, "dropout_p=nan"),
        ({"scale": float("inf")}, "scale=inf"),
        ({"query": torch.zeros(2, 6, 4)}, r"expected query, key and value as \[batch, heads, length, head_dim\]"),
        ({"query": torch.zeros(2, 2, 6, 5)}, "do not fit together"),
        ({"value": torch.zeros(2, 2, 7, 4)}, "do not fit together"),
        ({"query": torch.zeros(2, 4, 6, 4)}, "query has 4 heads and key 2; expected as many as key heads"),
        ({"query": torch.zeros(2, 3, 6, 4), "enable_gqa": True}, "expected a multiple of the key heads"),
        ({"query": torch.zeros(2, 2, 6, 4, dtype=torch.float64)}, "of one floating type"),
        ({"attn_mask": torch.ones(6, 6, dtype=torch.long)}, "attn_mask has type torch.int64"),
        ({"attn_mask": torch.ones(5, 6, dtype=torch.bool)}, r"\(5, 6\) does not broadcast to \(2, 2, 6, 6\)"),
    ],
)
def test_bad_tensors_are_refused(change, message):
    q, k, v = tensors()
    arguments = {"query": q, "key": k, "value": v, "mechanism": "topk_sparse", **change}
    with pytest.raises(ValueError, match=message):
        sparse_attention(**arguments)


def test_a_new_mechanism_is_one_class():
    from dataclasses import dataclass

    @mechanisms.register("first_key_test")
    @dataclass(frozen=True, kw_only=True)
    class FirstKey(mechanisms.Mechanism):
        """Every query keeps the first ``k`` keys."""

        k: int = mechanisms.count(1, "keys")

        def pattern(self, at):
            return at.key < self.k

    try:
        q, k, v = tensors()
        for backend in ("eager", "chunked"):
            out = hf_semfocus.sparse_attention(q, k, v, "first_key_test", backend=backend)
            torch.testing.assert_close(out, v[:, :, :1].expand_as(out))
        with pytest.raises(ValueError, match=r"'first_key_test' is registered already, by .*overwrite=True"):
            mechanisms.register("first_key_test")(type("Other", (FirstKey,), {}))
    finally:
        mechanisms.registry._REGISTRY.pop("first_key_test")
    with pytest.raises(ValueError, match="contains 'flash'"):
        mechanisms.register("flash_topk")


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("name", ["topk_sparse", "banded_sparse"])
def test_no_queries_give_no_rows(name, backend):
    query, key, value = torch.randn(2, 3, 0, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 6)
    assert sparse_attention(query, key, value, name, backend=backend).shape == (2, 3, 0, 6)


def test_a_mechanism_registered_anew_is_built_anew():
    """What has been built is remembered, but by class and by the types of its parameters, too."""

    def registered(columns):
        @register("anew_sparse")
        @dataclass(frozen=True, kw_only=True)
        class Anew(Mechanism):
            def pattern(self, at):
                return at.key < columns

        return sparse_attention(query, query, query, "anew_sparse", return_weights=True)[1]

    query = torch.randn(1, 1, 6, 4)
    try:
        assert [int((registered(columns) > 0).sum()) for columns in (2, 3)] == [12, 18]
    finally:
        del registry._REGISTRY["anew_sparse"]
    sparse_attention(query, query, query, "topk_sparse", k=1)
    for wrong in (True, 1.0, [1]):
        with pytest.raises(ValueError, match="k="):
            sparse_attention(query, query, query, "topk_sparse", k=wrong)
    with pytest.raises(ValueError, match="no parameter"):
        sparse_attention(query, query, query, "topk_sparse", cls=1)
