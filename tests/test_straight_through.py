"""Straight-through gradients: computed is the sparse attention, differentiated that of all visible keys."""

import oracle as definition
import pytest
import torch
from conftest import tiny_config
from transformers import AutoModelForCausalLM

import hf_semfocus
from hf_semfocus import mechanisms, sparse_attention
from hf_semfocus.attention.problem import Problem
from hf_semfocus.attention.visibility import Visibility
from hf_semfocus.backends import chunked, eager

NAMES = [name for name in mechanisms.names() if "gradient" in mechanisms.fields(mechanisms.get(name))]
FEW = {"topk_sparse": {"k": 3}, "bottomk_sparse": {"k": 3}}
FEW |= {"threshold_sparse": {"margin": 1.0}, "topp_sparse": {"p": 0.6}}
FEW["block_topk_sparse"] = {"k": 2, "block_size": 2}
HEADS, KV_HEADS, QUERIES, KEYS, DIM = 4, 2, 7, 9, 5


def problem(**changes):
    tensor = lambda *shape: torch.randn(shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    mask = torch.rand(2, 1, QUERIES, KEYS) < 0.8
    mask[0, 0, 1] = False  # a query that sees nothing
    return Problem(
        **{
            "query": tensor(2, HEADS, QUERIES, DIM),
            "key": tensor(2, KV_HEADS, KEYS, DIM),
            "value": tensor(2, KV_HEADS, KEYS, DIM + 1),
            "visibility": Visibility.between(QUERIES, KEYS, torch.device("cpu"), mask, causal=True),
            "scale": 0.7,
            "bias": tensor(1, HEADS, QUERIES, KEYS),
            "softcap": 3.0,
            "sinks": tensor(HEADS),
            **changes,
        }
    )


def row(scores, kept, sink, value):
    """Output of one query: weights of the kept keys, with the gradient of softmax over all."""
    logits = torch.cat([scores, sink[None]])
    dense = logits.softmax(0)[:-1]
    some = [*kept, len(scores)]
    sparse = torch.zeros(len(scores), dtype=torch.float64)
    sparse[kept] = logits[some].softmax(0)[:-1].detach()
    return (dense + (sparse - dense).detach()) @ value


def oracle(mechanism, at):
    """One query at a time, with autograd and ``detach``."""
    output = torch.zeros(2, HEADS, QUERIES, DIM + 1, dtype=torch.float64)
    allowed = at.allowed
    for batch in range(2):
        for head in range(HEADS):
            group = head // (HEADS // KV_HEADS)
            for query in range(QUERIES):
                seen = allowed[batch, 0, query].nonzero().flatten()
                if not len(seen):
                    continue
                scores = at.scale * at.key[batch, group, seen] @ at.query[batch, head, query]
                scores = 3.0 * torch.tanh(scores / 3.0) + at.bias[0, head, query, seen]
                place = int((seen <= query + KEYS - QUERIES).sum()) - 1
                kept, _ = definition.kept(
                    mechanism.name, place, len(seen), scores.tolist(), vars(mechanism), True, (0, head)
                )
                value = at.value[batch, group, seen]
                output[batch, head, query] = row(scores, kept, at.sinks[head], value)
    return output


def inputs(at):
    return [at.query, at.key, at.value, at.bias, at.sinks]


@pytest.mark.parametrize("backend", [eager, chunked])
@pytest.mark.parametrize("name", FEW)
def test_gradients_are_those_of_the_definition(name, backend, monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_SCORES", 200)
    at, mechanism = problem(), mechanisms.build(name, **FEW[name], gradient="straight_through")
    grad = torch.randn(2, HEADS, QUERIES, DIM + 1, dtype=torch.float64)
    output, _ = backend.attend(mechanism, at)
    hard, _ = backend.attend(mechanisms.build(name, **FEW[name]), at)
    assert torch.equal(output, hard)
    found = torch.autograd.grad(output, inputs(at), grad)
    for got, wanted in zip(found, torch.autograd.grad(oracle(mechanism, at), inputs(at), grad), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)
    others = torch.autograd.grad(hard, inputs(at), grad)
    same = [torch.allclose(got, other) for got, other in zip(found, others, strict=True)]
    assert same == [False, False, True, False, False]  # values have the gradient of the sparse weights either way


def test_all_are_tested():
    assert sorted(FEW) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_with_all_keys_kept_it_is_dense_attention(name):
    largest = {"k": 99, "block_size": 3, "p": 1.0, "margin": 99.0}
    sizes = {key: value for key, value in largest.items() if key in mechanisms.fields(mechanisms.get(name))}
    query, key, value = (torch.randn(1, 2, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    output = sparse_attention(query, key, value, name, is_causal=True, gradient="straight_through", **sizes)
    dense = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    grad = torch.randn_like(output)
    for got, wanted in zip(
        torch.autograd.grad(output, (query, key, value), grad),
        torch.autograd.grad(dense, (query, key, value), grad),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_list_kernels_refuse_the_gradient_and_compute_the_rest():
    query, key, value = torch.randn(3, 1, 2, 64, 8)
    spec = "topk_sparse:k=4,gradient=straight_through"
    found = hf_semfocus.explain(query, key, value, spec)
    for backend in ("native", "triton", "gather"):
        assert any("gradient='straight_through' is of all visible keys" in e for e in found.objections[backend])
        with torch.no_grad():
            assert not any("gradient" in e for e in hf_semfocus.explain(query, key, value, spec).objections[backend])
    assert found.chosen == "eager"
    with pytest.raises(ValueError, match=r"cannot compute topk_sparse:k=4,gradient=straight_through"):
        sparse_attention(query, key, value, spec, backend="gather")
    torch.testing.assert_close(
        sparse_attention(query, key, value, spec), sparse_attention(query, key, value, "topk_sparse:k=4")
    )


def test_models_keep_it_and_specs_state_it_only_where_it_is_chosen(tmp_path):
    assert mechanisms.build("topk_sparse", k=4).spec == "topk_sparse:k=4"
    spec = "topk_sparse:k=4,gradient=straight_through"
    assert mechanisms.build(spec).spec == spec
    built = AutoModelForCausalLM.from_config(tiny_config("gpt2"), attn_implementation=spec)
    ids = torch.arange(3, 19)[None]
    grads = []
    for name in (spec, "topk_sparse:k=4"):
        built.set_attn_implementation(name)
        built.zero_grad()
        built(ids, labels=ids).loss.backward()
        grads.append(built.transformer.h[0].attn.c_attn.weight.grad.clone())
    assert not torch.allclose(*grads)
    built.set_attn_implementation(spec)
    built.save_pretrained(tmp_path)
    assert set(hf_semfocus.verify(AutoModelForCausalLM.from_pretrained(tmp_path)).values()) == {spec}
    with pytest.raises(ValueError, match="gradient='soft' is not allowed; expected one of 'hard', 'straight_through'"):
        mechanisms.build("topk_sparse", gradient="soft")


def test_second_derivatives_and_transforms_follow_it():
    query, key, value = (torch.randn(1, 1, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def loss(query):
        return sparse_attention(query, key, value, "topk_sparse:k=2,gradient=straight_through").square().sum()

    direct = torch.autograd.grad(loss(query), query)[0]
    torch.testing.assert_close(torch.func.grad(loss)(query), direct)
    assert torch.autograd.functional.hessian(loss, query).isfinite().all()
