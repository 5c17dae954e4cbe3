"""Types, autocast, quantized weights and recomputation: with every key kept as ``sdpa``, with few as the formula."""

import contextlib

import pytest
import torch
import transformers
from tiny_families import AUTO, EVERYTHING, FAMILIES, SPARSE, build, config, inputs, logits, sharpen, used
from torch import nn

TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 8e-2}


def shown(model, family):
    """The logits of the tokens that are there."""
    found = logits(model, family).float()
    return found if family == "t5" else found[inputs(family)["attention_mask"].bool()]


def close(found, expected, tolerance):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("how", ["weights", "autocast"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family, how, dtype):
    outs = {}
    for name, backend in ((EVERYTHING, "auto"), (SPARSE, "auto"), (SPARSE, "eager"), ("sdpa", None)):
        model = build(family, name, **({} if backend is None else {"semfocus": {"backend": backend}}))
        context = torch.autocast("cpu", dtype) if how == "autocast" else contextlib.nullcontext()
        with context:
            outs[name, backend] = shown(model if how == "autocast" else model.to(dtype), family)
    close(outs[EVERYTHING, "auto"], outs["sdpa", None], TOLERANCE[dtype])
    close(outs[SPARSE, "auto"], outs[SPARSE, "eager"], TOLERANCE[dtype])
    assert not torch.allclose(outs[SPARSE, "auto"], outs["sdpa", None], rtol=0.1, atol=0.1)


STRAIGHT = f"{SPARSE},gradient=straight_through"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", [SPARSE, "random_sparse:k=3", "banded_sparse:window=3", STRAIGHT])
def test_gradient_checkpointing_is_bit_equal(family, name, reentrant):
    dropout = {"gpt2": "attn_pdrop", "llama": "attention_dropout", "bert": "attention_probs_dropout_prob"}
    gradients = []
    for recompute in (False, True):
        model = build(family, name, **({dropout[family]: 0.3} if family in dropout else {})).train()
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(5)
        model(**inputs(family, labels=True)).loss.backward()
        gradients.append({key: value.grad for key, value in model.named_parameters()})
    for key, expected in gradients[0].items():
        if family == "t5":  # which adds gradients of shared weights in another order, with sdpa and eager, too
            torch.testing.assert_close(gradients[1][key], expected, rtol=1e-4, atol=1e-5)
        else:
            assert torch.equal(gradients[1][key], expected), key


@pytest.mark.parametrize("family", FAMILIES)
def test_reentrant_checkpointing_of_straight_through_gradients_without_dropout(family):
    """Its first pass asks for no gradient, and takes the kernels that have none: the last digits differ."""
    gradients = []
    for recompute in (False, True):
        model = build(family, STRAIGHT).train()
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": True})
        model(**inputs(family, labels=True)).loss.backward()
        gradients.append({key: value.grad for key, value in model.named_parameters()})
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-4, atol=1e-5)


class Int8(nn.Module):
    """A linear layer as libraries of quantized weights put it in place: integers and a scale per row."""

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.T if isinstance(linear, transformers.pytorch_utils.Conv1D) else linear.weight
        scale = weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def quantized(model):
    """The model with integer weights in all its blocks."""
    for parent in list(model.modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, (nn.Linear, transformers.pytorch_utils.Conv1D)) and key not in ("lm_head", "decoder"):
                setattr(parent, key, Int8(child))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_weights(family):
    outs = {name: shown(quantized(build(family, name)), family) for name in (EVERYTHING, SPARSE, "sdpa")}
    close(outs[EVERYTHING], outs["sdpa"], 1e-5)
    assert not torch.equal(outs["sdpa"], shown(build(family, "sdpa"), family))
    model = quantized(build(family, SPARSE, semfocus={"backend": "eager"}))
    close(outs[SPARSE], shown(model, family), 1e-5)
    assert used(model, family) == {SPARSE}


LIBRARIES = {
    "torchao": lambda: transformers.TorchAoConfig(torchao("Int8WeightOnlyConfig")),
    "optimum.quanto": lambda: transformers.QuantoConfig(weights="int8"),
    "bitsandbytes": lambda: transformers.BitsAndBytesConfig(load_in_8bit=True),
}


def torchao(name):
    return getattr(pytest.importorskip("torchao.quantization"), name)()


@pytest.mark.parametrize("library", LIBRARIES)
def test_weights_quantized_by_a_library(library, tmp_path):
    pytest.importorskip(library)
    sharpen(AUTO["llama"].from_config(config("llama"))).save_pretrained(tmp_path)
    outs = {}
    for name in (EVERYTHING, SPARSE, "sdpa"):
        model = AUTO["llama"].from_pretrained(
            tmp_path, attn_implementation=name, quantization_config=LIBRARIES[library](), device_map="cpu"
        )
        outs[name] = shown(model.eval(), "llama")
    close(outs[EVERYTHING], outs["sdpa"], 1e-4)
    assert not torch.allclose(outs[SPARSE], outs["sdpa"], rtol=1e-2, atol=1e-2)
