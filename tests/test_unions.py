"""Unions of mechanisms: their names, parameters, and what models do with them."""

import copy
import pickle

import pytest
import torch
from conftest import tiny_config
from transformers import AutoModelForCausalLM

import hf_semfocus
from hf_semfocus import mechanisms, sparse_attention

SPEC = "sink_sparse:first=2+banded_sparse:window=3+topk_sparse:k=2"
IDS = torch.arange(3, 21).view(1, -1)


def test_names_and_parameters():
    assert mechanisms.base_name(SPEC) == "sink_sparse+banded_sparse+topk_sparse"
    assert mechanisms.parse(SPEC) == (mechanisms.base_name(SPEC), {"first": 2, "window": 3, "k": 2})
    made = mechanisms.build(mechanisms.base_name(SPEC), first=2, window=3, k=2)
    assert made == mechanisms.build(SPEC)
    assert made == mechanisms.build(made.spec)
    assert hash(made) == hash(mechanisms.build(SPEC))
    assert made != mechanisms.build(SPEC, edge="cut")
    assert "edge=shifted" in made.spec
    assert mechanisms.exists(SPEC)
    assert not mechanisms.exists("banded_sparse+sparser")
    assert mechanisms.parse("threshold_sparse:margin=1e+1") == ("threshold_sparse", {"margin": 10.0})


def test_copies_and_pickles():
    made = mechanisms.build(SPEC)
    assert made == copy.deepcopy(made) == pickle.loads(pickle.dumps(made))


@pytest.mark.parametrize("length", [1, 3, 7, 50])
def test_budgets_add_up(length):
    assert mechanisms.build(SPEC).budget(length) == min(length, 2 + 3 + 2)
    assert mechanisms.build("sink_sparse:first=2+topp_sparse:p=0.5").budget(length) is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("topk_sparse+bottomk_sparse", "topk_sparse and bottomk_sparse select keys; expected one"),
        ("banded_sparse+banded_sparse", "a mechanism is repeated; expected each once"),
        ("banded_sparse+entmax_sparse", "entmax_sparse has weights of its own; expected mechanisms that keep keys"),
        ("banded_sparse+asentmax_sparse", "asentmax_sparse has weights of its own"),
        ("banded_sparse+nothing_sparse", "unknown mechanism 'nothing_sparse'"),
        ("banded_sparse:window=3+strided_sparse:window=4", "gives window two values, but parts share it"),
        ("banded_sparse+topk_sparse:k=2,share=0.1", "takes one of k or share; expected one, not k=2 and share=0.1"),
        ("banded_sparse+topk_sparse:stride=2", r"has no parameter 'stride' \(.* belongs to strided_sparse\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        mechanisms.build(spec)


def test_sinks_windows_and_the_best_of_the_rest():
    q, k, v = torch.randn(3, 1, 1, 30, 4, dtype=torch.float64)
    _, weights = sparse_attention(q, k, v, SPEC, is_causal=True, return_weights=True)
    scores = (q @ k.transpose(-1, -2))[0, 0]
    for i in range(30):
        always = {j for j in range(i + 1) if j < 2 or j > i - 3}
        rest = [j for j in range(i + 1) if j not in always]
        best = sorted(rest, key=lambda j: scores[i, j].item())[-2:]
        assert set(weights[0, 0, i].nonzero().flatten().tolist()) == always | set(best)


def test_models_keep_their_names_and_parameters(tmp_path):
    built = AutoModelForCausalLM.from_config(tiny_config("gpt2"), attn_implementation=SPEC)
    spec = mechanisms.build(SPEC).spec
    assert set(hf_semfocus.verify(built).values()) == {spec}
    assert built.config.semfocus == {"first": 2, "window": 3, "k": 2}
    built.save_pretrained(tmp_path / "one")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert again.config._attn_implementation == SPEC
    assert torch.equal(again.eval()(IDS).logits, built.eval()(IDS).logits)
    hf_semfocus.configure(again, k=5, window=2)
    made = mechanisms.build("sink_sparse+banded_sparse+topk_sparse", k=5, window=2)
    assert set(hf_semfocus.verify(again).values()) == {made.spec}
    again.save_pretrained(tmp_path / "two")
    assert set(hf_semfocus.verify(AutoModelForCausalLM.from_pretrained(tmp_path / "two")).values()) == {made.spec}
    again.set_attn_implementation("topk_sparse:k=3")
    assert again.config.semfocus == {"k": 3}


def test_one_alternative_replaces_the_other():
    built = AutoModelForCausalLM.from_config(tiny_config("gpt2"), attn_implementation="topk_sparse")
    built.config.semfocus = {"k": 3}
    built.set_attn_implementation("topk_sparse:share=0.5")
    assert built.config.semfocus == {"share": 0.5}
    assert set(hf_semfocus.verify(built).values()) == {"topk_sparse:share=0.5"}
    with pytest.raises(ValueError, match="contradicts k=3; expected it once"):
        hf_semfocus.configure(built, "topk_sparse:share=0.5", k=3)


@pytest.mark.parametrize("share", [0.1, 0.07, 0.29, 0.55])
def test_a_share_is_rounded_up_exactly(share):
    made = mechanisms.build("topk_sparse", share=share)
    hundredths = round(share * 100)
    assert [made.budget(n) for n in range(1, 301)] == [-(-n * hundredths // 100) for n in range(1, 301)]
