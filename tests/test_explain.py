"""``explain`` of a model, and what ``dir`` of the package shows."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_config
from transformers import AutoModel, AutoModelForCausalLM, T5Config

import hf_semfocus
from hf_semfocus.backends import BACKENDS
from hf_semfocus.hf.explaining import ModelExplanation


def model(spec, family="gpt2", **changes):
    return AutoModelForCausalLM.from_config(tiny_config(family, **changes), attn_implementation=spec).eval()


def test_a_model_is_explained_layer_by_layer():
    built = model("topk_sparse:k=3")
    found = hf_semfocus.explain(built)
    assert list(found.layers) == list(hf_semfocus.verify(built)) == ["transformer.h.0.attn", "transformer.h.1.attn"]
    for layer in found.layers.values():
        assert list(layer.objections) == list(BACKENDS)
        assert layer.objections[layer.chosen] == []
        assert layer.problem.startswith("topk_sparse:k=3 (causal, batch 3, heads 4, queries 5, keys 5, head_dim 8")
    lines = str(found).splitlines()
    assert lines[0] == "transformer.h.0.attn, transformer.h.1.attn:"
    assert len(lines) == 2 + len(BACKENDS)
    assert f"{found.layers['transformer.h.0.attn'].chosen}" in str(found)


def test_what_a_model_is_given_and_asks_for_is_explained():
    built = model("topk_sparse:k=3", "llama", semfocus={"backend": "chunked"})
    found = hf_semfocus.explain(built, input_ids=torch.arange(3, 12)[None]).layers
    assert {layer.chosen for layer in found.values()} == {"chunked"}
    assert {layer.reason for layer in found.values()} == {"asked for by name"}
    assert all("batch 1, heads 4, queries 9, keys 9" in layer.problem for layer in found.values())
    asked = hf_semfocus.explain(built, input_ids=torch.arange(3, 12)[None], output_attentions=True).layers
    assert any("weights" in str(layer) for layer in asked.values())


def test_layers_that_differ_are_shown_apart():
    config = T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=61)
    built = AutoModel.from_config(config, attn_implementation="banded_sparse:window=3").eval()
    ids = torch.arange(3, 12)[None]
    found = hf_semfocus.explain(built, input_ids=ids, decoder_input_ids=ids[:, :4])
    assert len(found.layers) == 3
    text = str(found)
    assert text.count("banded_sparse:window=3") == 2
    assert text.count("full (bidirectional") == 1


def test_tensors_are_explained_as_before():
    q, k, v = torch.randn(3, 1, 2, 6, 4)
    for found in (
        hf_semfocus.explain(q, k, v, "topk_sparse:k=2", is_causal=True),
        hf_semfocus.explain(query=q, key=k, value=v, mechanism="topk_sparse", k=2, is_causal=True),
    ):
        assert found.problem.startswith("topk_sparse:k=2 (causal, ")
        assert list(found.objections) == list(BACKENDS)


def test_what_cannot_be_explained_is_refused():
    with pytest.raises(ValueError, match=r"no layer of GPT2LMHeadModel .* is 'sdpa', expected one of hf_semfocus's"):
        hf_semfocus.explain(model("sdpa"))
    with pytest.raises(ValueError, match="takes inputs by name, got 1 without"):
        hf_semfocus.explain(model("topk_sparse"), torch.arange(3, 9)[None])


def test_dir_lists_the_public_names_and_only_those():
    shown = dir(hf_semfocus)
    assert {"configure", "explain", "load_adapter", "push_to_hub", "sparse_attention", "tasks", "verify"} <= set(shown)
    assert set(hf_semfocus.__all__) <= set(shown)
    assert not {"Any", "functional", "hf", "import_module"} & set(shown)
    assert not [name for name in shown if name.startswith("_")]
    assert all(getattr(hf_semfocus, name) is not None for name in shown)


def test_in_a_notebook_explanations_are_tables_with_escaped_text():
    found = hf_semfocus.explain(model("topk_sparse:k=3"))
    [(paths, one)] = found._grouped()
    html = found._repr_html_()
    assert html.startswith(f"<table><caption>{paths}: {one.problem}</caption><tr><th>backend</th>")
    assert f"<td>{one.chosen}</td><td>chosen: " in html
    assert one._repr_html_() in html.replace(f"{paths}: ", "")
    hostile = "<script>alert('&')</script>"
    fake = replace(one, problem=hostile, reason=hostile, objections={one.chosen: [], hostile: [hostile]})
    for text in (fake._repr_html_(), ModelExplanation({hostile: fake})._repr_html_()):
        assert "<script>" not in text
        assert text.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)") >= 4
