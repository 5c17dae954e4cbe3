"""Tracers, transforms and second derivatives: the formula serves them, and another backend says why it cannot."""

import warnings

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import AutoModel

from hf_semfocus import explain, sparse_attention
from hf_semfocus.backends import BACKENDS

SPECS = [
    "topk_sparse:k=3",
    "banded_sparse:window=4,num_global_tokens=2",
    "strided_sparse:window=3,stride=4",
    "random_sparse:k=3",
]
SPEC = pytest.mark.parametrize("spec", SPECS)
SIZE = (1, 2, 64, 8)  # lists would be taken without kernels, too, if the formula were not


def attention(spec, backend="auto"):
    return lambda *tensors: sparse_attention(*tensors, spec, is_causal=True, backend=backend)


def formula(spec):
    """The definition under the eyes of nobody."""
    return attention(spec, "eager")


@pytest.fixture(autouse=True)
def _lists_are_preferred(monkeypatch):
    monkeypatch.setattr("hf_semfocus.backends.EAGER_SCORES", 0)


def jit(f, *inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(f, inputs)


def per_sample(f, *inputs):
    return lambda *others: torch.func.vmap(f)(*(torch.stack([t, t]) for t in others))[1]


TRACERS = {
    "jit.trace": jit,
    "make_fx": lambda f, *inputs: make_fx(f)(*inputs),
    "make_fx before dispatch": lambda f, *inputs: make_fx(f, pre_dispatch=True)(*inputs),
    "make_fx of fake tensors": lambda f, *inputs: make_fx(f, tracing_mode="fake")(*inputs),
    "vmap": per_sample,
}


@SPEC
@pytest.mark.parametrize("tracer", TRACERS.values(), ids=TRACERS)
def test_what_was_traced_is_right_for_other_inputs(spec, tracer):
    inputs, others = torch.randn(2, 3, *SIZE)
    traced = tracer(attention(spec), *inputs)
    torch.testing.assert_close(traced(*others), formula(spec)(*others))


@SPEC
def test_derivatives_by_torch_func_and_forward_mode_are_the_formulas(spec):
    inputs, tangents = (tuple(torch.randn(3, *SIZE, dtype=torch.float64)) for _ in range(2))
    ours, true = attention(spec), formula(spec)
    leaves = [t.clone().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(true(*leaves).sin().sum(), leaves)
    found = torch.func.grad(lambda *t: ours(*t).sin().sum(), argnums=(0, 1, 2))(*inputs)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)

    step = 1e-6
    ahead, behind = (true(*(t + sign * step * d for t, d in zip(inputs, tangents, strict=True))) for sign in (1, -1))
    slope = (ahead - behind) / (2 * step)
    _, along = torch.func.jvp(ours, inputs, tangents)
    torch.testing.assert_close(along, slope, rtol=0, atol=1e-6)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(inputs, tangents, strict=True)]
        torch.testing.assert_close(forward_ad.unpack_dual(ours(*duals)).tangent, slope, rtol=0, atol=1e-6)


@SPEC
def test_tensors_without_data_get_an_output_without_data(spec):
    assert attention(spec)(*torch.empty(3, *SIZE, device="meta")).device.type == "meta"
    with FakeTensorMode():
        assert attention(spec)(*torch.empty(3, *SIZE)).shape == SIZE


SECOND = {"native": torch.float32, "gather": torch.float64, "chunked": torch.float64}


@SPEC
@pytest.mark.parametrize("backend", SECOND)
@pytest.mark.parametrize("biased", [False, True])
def test_second_derivatives(spec, backend, biased):
    found = []
    for name, dtype in ((backend, SECOND[backend]), ("eager", torch.float64)):
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, 2, 20, 8).to(dtype).requires_grad_() for _ in range(3))
        inputs, mask = [q, k, v], None
        if biased:
            inputs.append(mask := torch.randn(2, 20, 20).to(dtype).requires_grad_())
        out = sparse_attention(q, k, v, spec, attn_mask=mask, backend=name)
        first = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), inputs)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-6 * (1 + want.abs().max().item()))


@pytest.mark.parametrize("backend", ["native", "gather", "chunked"])
def test_second_derivatives_where_key_and_value_are_one_tensor(backend):
    found = []
    for name in (backend, "eager"):
        torch.manual_seed(0)
        q, k = (torch.randn(1, 1, 12, 4, requires_grad=True) for _ in range(2))
        out = sparse_attention(q, k, k, "topk_sparse:k=3", backend=name)
        (first,) = torch.autograd.grad(out.sin().sum(), k, create_graph=True)
        found.append([first, *torch.autograd.grad(first.square().sum(), (q, k))])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_second_derivatives_use_the_dropout_of_the_forward_pass():
    """The output is linear in the values, and so is the gradient of the weights' inputs."""
    q, k, v = (torch.randn(1, 1, 30, 4, requires_grad=True) for _ in range(3))
    upstream = torch.randn(1, 1, 30, 4, requires_grad=True)
    out = sparse_attention(q, k, v, "topk_sparse:k=6", dropout_p=0.5, backend="native")
    once = torch.autograd.grad(out, v, upstream, retain_graph=True)[0]
    again = torch.autograd.grad(out, v, upstream, create_graph=True)[0]
    torch.testing.assert_close(again, once)
    # <upstream, out> is <v, gradient>, so the gradient's derivative along upstream is out again
    (back,) = torch.autograd.grad((again * v.detach()).sum(), upstream)
    torch.testing.assert_close(back, out)


@pytest.mark.parametrize("backend", ["native", "gather"])
def test_a_batch_of_gradients_is_refused_with_what_serves(backend):
    q, k, v = torch.randn(3, 1, 1, 9, 4)
    q.requires_grad_()
    upstream = torch.randn(3, 1, 1, 9, 4)
    out = sparse_attention(q, k, v, "topk_sparse:k=2", backend=backend)
    with pytest.raises(ValueError, match=f"backend '{backend}' cannot take a batch.*expected backend='eager'"):
        torch.autograd.grad(out, q, upstream, is_grads_batched=True)
    out = sparse_attention(q, k, v, "topk_sparse:k=2", backend="eager")
    assert torch.autograd.grad(out, q, upstream, is_grads_batched=True)[0].shape == upstream.shape


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "eager"])
def test_a_back_end_asked_for_by_name_says_what_it_cannot_follow(backend):
    q, k, v = torch.randn(3, 1, 1, 9, 4)
    f = attention("topk_sparse:k=2", backend)
    with pytest.raises(
        ValueError, match=f"backend '{backend}' cannot compute .*torch.func.*expected one of auto, eager"
    ):
        torch.func.grad(lambda q: f(q, k, v).sum())(q)
    if backend != "chunked":
        with pytest.raises(ValueError, match=f"backend '{backend}' cannot compute .*torch.jit.trace cannot record"):
            jit(f, q, k, v)
        with pytest.raises(ValueError, match=f"backend '{backend}' cannot compute .*make_fx cannot record"):
            make_fx(f)(q, k, v)
        with forward_ad.dual_level(), pytest.raises(ValueError, match="query has a tangent"):
            f(forward_ad.make_dual(q, torch.ones_like(q)), k, v)


def test_explain_gives_the_reason():
    told = []
    make_fx(lambda q: (told.append(explain(q, q, q, "topk_sparse:k=2")), q + 1)[1])(torch.randn(1, 1, 9, 4))
    assert told[0].chosen == "eager"
    assert told[0].reason == "the formula, since make_fx cannot record a choice by data or compiled kernels"


class Hidden(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids, use_cache=False).last_hidden_state


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
@pytest.mark.parametrize("spec", SPECS[:2])
def test_models(family, spec):
    """A model is traced, and its gradients by ``functional_call`` are those of ``backward``."""
    model = AutoModel.from_config(tiny_config(family), attn_implementation=spec).eval()
    inputs, others = torch.randint(3, VOCABULARY, (2, 2, 24))
    traced = jit(Hidden(model), inputs)
    torch.testing.assert_close(traced(others), model(others).last_hidden_state)

    parameters = dict(model.named_parameters())

    def loss(parameters):
        return (
            torch.func.functional_call(model, parameters, (inputs,), {"use_cache": False})
            .last_hidden_state.sin()
            .sum()
        )

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-4)
