"""Calls that are watched: all there is to know of them, of our attentions and of dense ones."""

import threading

import pytest
import torch
from conftest import tiny_config
from torch.nn.attention.flex_attention import create_block_mask
from transformers import (
    AlbertConfig,
    AttentionInterface,
    AutoModel,
    Gemma2Config,
    GptOssConfig,
    MistralConfig,
    T5Config,
)

import hf_semfocus
from hf_semfocus.backends import attend
from hf_semfocus.hf import dense, observe
from hf_semfocus.hf.support import UnsupportedModelError

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 61, "pad_token_id": 0}
CONFIGS = {
    **{family: lambda family=family: tiny_config(family) for family in ("gpt2", "llama", "bert")},
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=3),
    "gemma2": lambda: Gemma2Config(**SIZES, sliding_window=3, attn_logit_softcapping=2.0),
    "gpt_oss": lambda: GptOssConfig(**SIZES, sliding_window=3, num_local_experts=2, num_experts_per_tok=1),
    "t5": lambda: T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=61),
    "albert": lambda: AlbertConfig(**{**SIZES, "embedding_size": 16}),
}
EAGER_ONLY = ("gemma2", "gpt_oss")
INTERFACE = AttentionInterface.get_interface


@pytest.fixture(autouse=True)
def restored():
    yield
    assert AttentionInterface.get_interface is INTERFACE
    assert not observe._WATCHERS


def make(family, attention):
    torch.manual_seed(0)
    return AutoModel.from_config(CONFIGS[family](), attn_implementation=attention).eval()


def inputs(family, side=None):
    ids = torch.arange(1, 19).view(2, 9)
    given = {"input_ids": ids}
    if side:
        given["attention_mask"] = torch.ones_like(ids)
        given["attention_mask"][0, slice(0, 4) if side == "left" else slice(5, None)] = 0
    if family == "t5":
        given["decoder_input_ids"] = ids[:, :4]
    return given


@torch.no_grad()
def calls_of(model, given, watch=dense.watch):
    calls = []
    with watch(model, calls.append):
        output = model(**given)
    return calls, output


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_dense_call_says_all_that_its_weights_depend_on(family, attention, side):
    if attention == "sdpa" and family in EAGER_ONLY:
        pytest.skip("the family has no sdpa")
    given = inputs(family, side)
    calls, output = calls_of(make(family, attention), given)
    with torch.no_grad():
        again = make(family, attention)(**given)
        weights = make(family, "eager")(**given, output_attentions=True)
    assert torch.equal(output.last_hidden_state, again.last_hidden_state)
    if family == "t5":
        own = zip(weights.decoder_attentions, weights.cross_attentions, strict=True)
        weights = [*weights.encoder_attentions, *(each for layer in own for each in layer)]
    else:
        weights = weights.attentions
    assert [call.module is not None and call.backend for call in calls] == [attention] * len(weights)
    for call, expected in zip(calls, weights, strict=True):
        _, found = attend(call.mechanism, call.problem, return_weights=True)
        some = call.problem.allowed.any(-1, keepdim=True).expand_as(expected)
        torch.testing.assert_close(found[some], expected[some], rtol=1e-5, atol=1e-6)
        assert some.any(-1).any(-1).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager", "topk_sparse:k=3"])
def test_a_call_with_a_cache(attention):
    model, ids = make("llama", attention), inputs("llama")["input_ids"]
    calls = []
    with dense.watch(model, calls.append), torch.no_grad():
        past = model(input_ids=ids[:, :6]).past_key_values
        model(input_ids=ids[:, 6:], past_key_values=past)
    assert [call.problem.shape for call in calls] == [(2, 4, 6, 6)] * 2 + [(2, 4, 3, 9)] * 2
    allowed = calls[-1].problem.allowed.expand(2, 1, 3, 9)
    assert torch.equal(allowed, torch.ones(3, 9, dtype=torch.bool).tril(6).expand(2, 1, 3, 9))


def test_every_call_is_told_of():
    """ALBERT calls one layer again and again."""
    for attention in ("sdpa", "topk_sparse:k=3"):
        model = make("albert", attention)
        calls, _ = calls_of(model, inputs("albert"))
        assert len(calls) == 2
        assert calls[0].module is calls[1].module
        assert not torch.equal(calls[0].problem.query, calls[1].problem.query)
    assert list(hf_semfocus.verify(model).values()) == ["topk_sparse:k=3"]
    assert len(hf_semfocus.explain(model, **inputs("albert")).layers) == 1


def test_our_calls_are_told_of_with_what_they_keep():
    model, given = make("gpt2", "topk_sparse:k=3"), inputs("gpt2", "left")
    calls, output = calls_of(model, given, observe.watch)
    assert [(call.mechanism.spec, call.backend) for call in calls] == [("topk_sparse:k=3", "auto")] * 2
    problem = calls[0].problem
    kept = calls[0].mechanism.keep(problem.scores(), problem.allowed, None)
    assert (kept.sum(-1)[1, :, 2:] == 3).all()
    assert torch.equal(output.last_hidden_state, model(**given).last_hidden_state)
    assert not calls_of(make("gpt2", "sdpa"), given, observe.watch)[0]  # asks nothing of Transformers


def test_watches_may_be_nested_and_end_with_an_exception():
    model, other = make("gpt2", "sdpa"), make("bert", "eager")
    outer, inner, others = [], [], []
    with dense.watch(model, outer.append):
        with dense.watch(model, inner.append), dense.watch(other, others.append):
            model(**inputs("gpt2"))
            other(**inputs("bert"))
        model(**inputs("gpt2"))
        assert AttentionInterface.get_interface is not INTERFACE
    model(**inputs("gpt2"))
    assert (len(outer), len(inner), len(others)) == (4, 2, 2)

    def fail(call):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), dense.watch(model, fail):
        model(**inputs("gpt2"))


def test_threads_watch_their_own_models():
    barrier, found = threading.Barrier(4), {}

    def run(number):
        model = make("gpt2", "sdpa" if number % 2 else "eager")
        barrier.wait()
        for _ in range(10):
            calls, _ = calls_of(model, inputs("gpt2"))
            found.setdefault(number, []).append(
                {(call.backend, call.module in set(model.modules())) for call in calls}
            )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == {number: [{("sdpa" if number % 2 else "eager", True)}] * 10 for number in range(4)}


def test_flash_and_flex_attention_say_who_sees_whom_in_their_own_ways():
    module = torch.nn.Module()
    module.is_causal = True
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
    padding = torch.ones(2, 7, dtype=torch.long)
    padding[0, :3] = 0
    call = dense._call("flash_attention_2", module, q, k, k, padding, sliding_window=3, softcap=5.0)
    own = torch.arange(5)[:, None] + 2
    key = torch.arange(7)
    expected = (key <= own) & (key > own - 3) & padding.bool()[:, None, None]
    assert torch.equal(call.problem.allowed, expected)
    assert (call.problem.softcap, call.problem.bias) == (5.0, None)
    with pytest.raises(UnsupportedModelError, match="with packed sequences"):
        dense._call("flash_attention_3", module, q, k, k, cu_seq_lens_q=torch.tensor([0, 5]))
    blocks = create_block_mask(lambda b, h, i, j: j <= i + b, 2, None, 5, 7, device="cpu")
    allowed = dense._call("flex_attention", module, q, k, k, blocks).problem.allowed
    assert torch.equal(allowed, torch.stack([torch.ones(5, 7, dtype=torch.bool).tril(b) for b in (0, 1)])[:, None])
