"""Attention by layer and by head: each computes what it would alone, in every call, and is kept wherever it goes."""

import copy
import json
import pickle
from dataclasses import dataclass

import pytest
import torch
from conftest import CACHE, STATELESS, VOCABULARY, tiny_config
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BartConfig,
    BartModel,
    CLIPConfig,
    T5Config,
    ViTConfig,
)

import hf_semfocus
from hf_semfocus import analysis, backends, mechanisms
from hf_semfocus.attention.problem import Problem
from hf_semfocus.attention.visibility import Visibility
from hf_semfocus.backends import BACKENDS, eager
from hf_semfocus.hf.dense import watch
from hf_semfocus.hub import model_card
from hf_semfocus.mechanisms import Mechanism, count

BASE = "topk_sparse:k=3"
TABLES = {
    "layers": {"1": {"0": "sdpa", "2-": "bottomk_sparse:k=2"}},
    "heads": {"0-1": "banded_sparse:window=3", "3": "random_sparse:k=2"},
}
BY_HEAD = {
    0: ["banded_sparse:window=3"] * 2 + [BASE, "random_sparse:k=2"],
    1: ["sdpa", BASE] + ["bottomk_sparse:k=2"] * 2,
}
"""The attention of every head of the two layers."""


def ids(rows=2, length=12):
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def model(family="llama", tables=TABLES, name=BASE, **changes):
    auto = AutoModel if family == "bert" else AutoModelForCausalLM
    config = tiny_config(family, semfocus=tables, **changes)
    return auto.from_config(config, attn_implementation=name).eval()


def verified(built, **inputs):
    return list(hf_semfocus.verify(built, **(inputs or {"input_ids": ids()})).values())


def alone(name, call):
    """Output of one call with all heads on the attention ``name``, by the formula."""
    mechanism = Mechanism() if name in ("sdpa", "eager") else mechanisms.build(name)
    return eager.attend(mechanism, call)[0]


def calls(built, inputs):
    """The calls of every layer."""
    found = {}
    with watch(built, lambda call: found.setdefault(call.problem.layer, []).append(call)), torch.no_grad():
        built(**inputs)
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_every_head_computes_what_it_would_alone(family):
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, :4] = 0
    built, inputs = model(family), {"input_ids": ids(), "attention_mask": mask}
    shares = calls(built, inputs)
    whole = {}
    for layer, before in ((0, {}), (1, {"heads": TABLES["heads"], "layers": {"1": BASE}})):
        built.config.semfocus = {"k": 3, **before}
        [whole[layer]] = calls(built, inputs)[layer]  # all heads of the layer at once, with the same input
    for layer, by_head in BY_HEAD.items():
        seen = []
        for call in shares[layer]:
            output, _ = backends.attend(call.mechanism, call.problem)
            for place, head in enumerate(call.problem.heads):
                expected = alone(by_head[head], whole[layer].problem)[:, head]
                torch.testing.assert_close(output[:, place], expected, rtol=1e-4, atol=1e-5)
                seen.append(head)
        assert sorted(seen) == [0, 1, 2, 3]


def test_heads_are_joined_in_their_order():
    built = model(tables={"heads": {"1": "sdpa", "3": "sdpa"}}).train()
    weights = built(ids(), output_attentions=True).attentions
    assert [[int((layer[:, head] > 0).sum(-1).max()) for head in range(4)] for layer in weights] == [
        [3, 12, 3, 12]
    ] * 2
    hidden = built.model.embed_tokens(ids())
    attention = built.model.layers[0].self_attn
    outputs = []
    attention.o_proj.register_forward_pre_hook(lambda _, args: outputs.append(args[0].unflatten(-1, (4, -1))))
    for tables in ({"heads": {"1": "sdpa", "3": "sdpa"}}, {}, {"layers": {"0": "sdpa"}}):
        built.config.semfocus = {"k": 3, **tables}
        built(inputs_embeds=hidden)
    mixed, sparse, dense = outputs
    torch.testing.assert_close(mixed[:, :, 0::2], sparse[:, :, 0::2])
    torch.testing.assert_close(mixed[:, :, 1::2], dense[:, :, 1::2])


def random_problem(kv_heads, dtype=torch.float64):
    mask = torch.rand(2, 1, 7, 9) < 0.8
    return Problem(
        query=torch.randn(2, 6, 7, 5, dtype=dtype),
        key=torch.randn(2, kv_heads, 9, 5, dtype=dtype),
        value=torch.randn(2, kv_heads, 9, 4, dtype=dtype),
        visibility=Visibility.between(7, 9, torch.device("cpu"), mask.expand(2, 6, 7, 9), causal=True),
        scale=0.4,
        bias=torch.randn(6, 7, 9, dtype=dtype),
        sinks=torch.randn(6, dtype=dtype),
    )


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("heads", [(0,), (0, 1, 2), (4, 5), (5, 0, 3), (2, 3, 4, 5), (1, 2)])
def test_some_heads_of_a_problem_are_those_of_the_whole(heads, kv_heads):
    whole = random_problem(kv_heads)
    part = whole.of_heads(heads)
    for spec in (*STATELESS, None):
        mechanism = Mechanism() if spec is None else mechanisms.build(spec)
        for found, all_heads in zip(*(eager.attend(mechanism, p, True) for p in (part, whole)), strict=True):
            torch.testing.assert_close(found, all_heads[:, list(heads)], rtol=0, atol=1e-13)
    assert whole.of_heads(None) is whole
    if kv_heads == 2 and heads == (0, 1, 2):
        assert part.key.shape[1] == 1  # a whole group keeps its shared head


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("queries", "kv_heads"), [(9, 4), (5, 2), (9, 1)])
def test_full_attention_by_pytorch_is_the_formula(causal, masked, biased, queries, kv_heads, dtype):
    mask = torch.rand(2, 1, queries, 9) < 0.7
    mask[0, :, 2] = False
    leaves = [torch.randn(2, heads, n, 4, dtype=dtype) for heads, n in ((4, queries), (kv_heads, 9), (kv_heads, 9))]
    leaves += [torch.randn(1, 4, queries, 9, dtype=dtype)] * biased
    leaves = [leaf.requires_grad_() for leaf in leaves]
    problem = Problem(
        *leaves[:3],
        Visibility.between(queries, 9, torch.device("cpu"), mask if masked else None, causal),
        0.3,
        bias=leaves[3] if biased else None,
    )
    assert BACKENDS["sdpa"].LIMITS.objections(Mechanism(), problem) == []
    results = []
    for backend in ("sdpa", "eager"):
        output, _ = BACKENDS[backend].attend(Mechanism(), problem)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    [found] = BACKENDS["sdpa"].LIMITS.objections(mechanisms.build("topk_sparse"), problem)
    assert found == "topk_sparse keeps some keys; expected full attention"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generation_with_a_cache_is_that_without(family):
    built = model(family)
    whole = built(ids()).logits
    cache = None
    for part in ids().split([7, 3, 1, 1], 1):
        found = built(part, use_cache=True, **({} if cache is None else {CACHE: cache}))
        cache = found.past_key_values
    torch.testing.assert_close(found.logits[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
    tokens = built.generate(ids()[:, :6], max_new_tokens=5, do_sample=False)
    for step in range(6, 11):
        assert torch.equal(built(tokens[:, :step]).logits[:, -1].argmax(-1), tokens[:, step])


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_checkpointing_and_weights_change_nothing(family):
    built = model(family).train()
    found = []
    for checkpointing in (False, True):
        built.gradient_checkpointing_enable() if checkpointing else built.gradient_checkpointing_disable()
        built.zero_grad()
        output = built(ids(), use_cache=False) if family != "bert" else built(ids())
        output[0].square().mean().backward()
        found.append([p.grad.clone() for p in built.parameters() if p.grad is not None])
    assert all(torch.equal(*grads) for grads in zip(*found, strict=True))
    built.eval()
    weights = built(ids(), output_attentions=True).attentions
    kept = [(weights[1][:, head] > 0).sum(-1).max() for head in range(4)]
    assert kept == [12, 3, 2, 2]
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 4, 12))


def test_verify_explain_and_capture_tell_heads_apart():
    built = model()
    assert verified(built) == [
        "banded_sparse:window=3,edge=shifted,num_global_tokens=0,global_position=first, topk_sparse:k=3, "
        "random_sparse:k=2,seed=0",
        "full, topk_sparse:k=3, bottomk_sparse:k=2",
    ]
    explained = hf_semfocus.explain(built, input_ids=ids()).layers
    assert [e.problem.split(" (")[0] for e in explained.values()][3:] == ["full", BASE, "bottomk_sparse:k=2"]
    assert explained["model.layers.1.self_attn"].chosen == "sdpa"
    with analysis.capture(built, ["kept_mass"], mechanism=BASE) as record:
        built(ids())
    found = {(layer, head) for layer, head, _ in record.sketches}
    assert found == {(layer, head) for layer in (0, 1) for head in range(4)}


@pytest.mark.parametrize("way", ["saved", "copied", "pickled", "configured"])
def test_what_is_set_is_kept(way, tmp_path):
    built = model()
    expected = built(ids()).logits
    if way == "saved":
        built.save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "config.json").read_text())
        assert (stored["attn_implementation"], stored["semfocus"]) == (BASE, TABLES)
        again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    elif way == "configured":
        again = model(tables=None, name="sdpa")
        again.load_state_dict(built.state_dict())
        hf_semfocus.configure(again, "topk_sparse", k=3, **TABLES)
        assert again.config.semfocus == {"k": 3, **TABLES}
    else:
        again = copy.deepcopy(built) if way == "copied" else pickle.loads(pickle.dumps(built))
    assert torch.equal(again(ids()).logits, expected)
    assert verified(again) == verified(built)
    again.config.semfocus = {"k": 3}
    assert verified(again) == [BASE] * 2


def test_tables_cannot_change_in_place():
    given = copy.deepcopy(TABLES)
    built = model(tables={})
    built.config.semfocus = given
    given["layers"]["1"] = "sdpa"
    assert built.config.semfocus["layers"] == TABLES["layers"]
    with pytest.raises(ValueError, match="cannot be changed in place"):
        built.config.semfocus["layers"]["0"] = "sdpa"


def test_dense_layers_are_those_of_sdpa():
    dense = model(tables={}, name="sdpa")
    for span in ("0-", "-2"):
        built = model(tables={"layers": {span: "sdpa"}})
        built.load_state_dict(dense.state_dict())
        torch.testing.assert_close(built(ids()).logits, dense(ids()).logits)
        assert verified(built) == ["full", "full"]
    assert verified(model(tables={"layers": {"-1": "sdpa"}})) == [BASE, "full"]


def encoder_decoder(family):
    sizes = {"d_model": 32, "vocab_size": VOCABULARY, "pad_token_id": 0, "decoder_start_token_id": 1}
    if family == "t5":
        return T5Config(**sizes, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4)
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    return BartConfig(**sizes, **heads, encoder_layers=2, decoder_layers=3, eos_token_id=2, bos_token_id=1)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_both_stacks_of_an_encoder_decoder_count_from_zero(family, tmp_path):
    config = encoder_decoder(family)
    config.semfocus = {"layers": {"0": "sdpa", "2": {"0-1": "bottomk_sparse:k=2"}}}
    built = AutoModel.from_config(config, attn_implementation=BASE).eval()
    inputs = {"input_ids": ids(), "decoder_input_ids": ids()[:, :5]}
    found = verified(built, **inputs)
    mixed = f"bottomk_sparse:k=2, {BASE}"
    assert found == ["full", BASE, "full", "full", BASE, BASE, mixed, mixed]
    built.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs).last_hidden_state, built(**inputs).last_hidden_state)
    hf_semfocus.configure(built, "topk_sparse", k=3, layers={"1-": "sdpa"})
    assert verified(built, **inputs) == [BASE, "full", BASE, BASE, *["full"] * 4]
    hf_semfocus.configure(built, "topk_sparse", k=3, layers={"-1": "sdpa"})
    assert verified(built, **inputs) == [BASE, "full", *[BASE] * 4, "full", "full"]
    hf_semfocus.configure(built, "topk_sparse", k=3, layers={"-3": "sdpa"})
    assert verified(built, **inputs) == ["full"] * 8
    for number in ("3", "1-3", "-4"):
        with pytest.raises(ValueError, match=f"layers: '{number}' is not in the model; expected numbers from 0 to 2"):
            hf_semfocus.configure(built, "topk_sparse", layers={number: "sdpa"})


def test_layers_without_a_number_are_counted_by_their_path():
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32, image_size=8, patch_size=4
    )
    config.semfocus = {"layers": {"1": "sdpa"}}
    built = AutoModel.from_config(config, attn_implementation=BASE).eval()
    assert verified(built, pixel_values=torch.ones(1, 3, 8, 8)) == [BASE, "full", BASE]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"layers": {"2": "sdpa"}}, "layers: '2' is not in the model; expected numbers from 0 to 1"),
        ({"layers": {"1-2": "sdpa"}}, "layers: '1-2' is not in the model"),
        ({"layers": {"0-1": "sdpa", "1": "eager"}}, "layers: 1 is in two entries; expected every number once"),
        ({"layers": {"1": "sdpa", "0-": "eager"}}, "layers: 1 is in two entries"),
        ({"layers": {0: "sdpa"}}, "layers: 0 is not allowed; expected a string: '3', '0-3', '8-' or '-2'"),
        ({"layers": {"1-0": "sdpa"}}, "layers: '1-0' is not allowed"),
        ({"layers": {"-0": "sdpa"}}, "layers: '-0' is not allowed"),
        ({"layers": {"-3": "sdpa"}}, "layers: '-3' is not in the model; expected numbers from 0 to 1"),
        ({"layers": {"-1": "sdpa", "1": "eager"}}, "layers: 1 is in two entries"),
        ({"layers": "sdpa"}, r"layers: 'sdpa' is not allowed; expected a dict such as \{'0-3': 'sdpa'\}"),
        ({"layers": ["sdpa"]}, r"layers: \['sdpa'\] is not allowed"),
        ({"layers": {"0": 3}}, "layers: 0: 3 is not allowed; expected a name such as 'topk_sparse:k=8'"),
        ({"layers": {"0": {"1": {"2": "sdpa"}}}}, r"layers: 0: 1: \{'2': 'sdpa'\} is not allowed; expected a name"),
        ({"layers": {"0": "topk_spares"}}, r"layers: 0: unknown attention 'topk_spares' \(did you mean 'topk_sparse"),
        (
            {"layers": {"0": "flash_attention_2"}},
            "unknown attention 'flash_attention_2'.*; expected one of sdpa, eager",
        ),
        ({"layers": {"0": "topk_sparse:k=0"}}, r"k=0 is not allowed.* \(config.semfocus has \{'layers'"),
        ({"heads": {"4": "sdpa"}}, "heads: '4' is not in the model; expected numbers from 0 to 3"),
        ({"layers": {"1": {"0-4": "sdpa"}}}, "layers: 1: '0-4' is not in the model"),
    ],
)
def test_what_does_not_fit_is_refused(tables, message):
    built = model(tables={})
    built.config.semfocus = {"k": 3, **tables}
    with pytest.raises(ValueError, match=message):
        built(ids())
    with pytest.raises(ValueError, match=message):
        model(tables={"k": 3, **tables}, name="topk_sparse")
    with pytest.raises(ValueError, match=message):
        hf_semfocus.configure(model(tables={}), "topk_sparse", k=3, **tables)


@pytest.mark.parametrize("key", ["-2", "-4"])
def test_heads_may_be_counted_from_the_end(key):
    built = model(tables={"heads": {key: "sdpa"}})
    shares = calls(built, built.dummy_inputs)[0]
    kept = {call.problem.heads for call in shares if call.mechanism.name == "full"}
    assert kept == ({(2, 3)} if key == "-2" else {None})
    with pytest.raises(ValueError, match="heads: '-5' is not in the model; expected numbers from 0 to 3"):
        model(tables={"heads": {"-5": "sdpa"}})


@pytest.mark.parametrize("counts", [(4, 2), (2, 4)])
def test_stacks_may_have_numbers_of_heads_of_their_own(counts):
    sizes = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}
    heads = dict(zip(("encoder_attention_heads", "decoder_attention_heads"), counts, strict=True))
    config = BartConfig(vocab_size=20, **sizes, **heads, semfocus={"heads": {"3": "sdpa"}})
    made = BartModel._from_config(config, attn_implementation="topk_sparse")
    with pytest.raises(ValueError, match="heads: '3' is not in the model; expected numbers from 0 to 1"):
        made(input_ids=torch.arange(6)[None])
    config.semfocus = {"heads": {"4": "sdpa"}}
    with pytest.raises(ValueError, match="heads: '4' is not in the model; expected numbers from 0 to 3"):
        BartModel._from_config(config, attn_implementation="topk_sparse")


def test_graphs_hold_them():
    built = model("gpt2", tables={**TABLES, "heads": {"0-1": "bottomk_sparse:k=4"}})
    torch._dynamo.reset()
    compiled = torch.compile(built, backend="eager", fullgraph=True)
    with torch.no_grad():
        expected = built(ids(), use_cache=False).logits
        torch.testing.assert_close(compiled(ids(), use_cache=False).logits, expected, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True, kw_only=True)
class Scaled(Mechanism):
    """Top-k of weights with a trainable temperature."""

    k: int = count(2, "keys")

    def create_state(self, layer, config):
        class State(nn.Module):
            def __init__(self):
                super().__init__()
                self.temperature = nn.Parameter(torch.empty(1))

            def reset_parameters(self):
                nn.init.constant_(self.temperature, 2.0)

        return State()

    def priority(self, scores, at):
        return scores

    def normalize(self, scores, keep):
        return super().normalize(scores * self.state.temperature, keep)


def test_only_layers_with_trainable_parameters_have_them(tmp_path, monkeypatch):
    monkeypatch.setattr(mechanisms.registry, "_REGISTRY", dict(mechanisms.registry._REGISTRY))
    mechanisms.register("scaled")(Scaled)
    for name, tables in ((BASE, {"layers": {"1": "scaled:k=2"}}), ("scaled:k=2", {"layers": {"0": BASE}})):
        built = model(name=name, tables=tables)
        assert [key for key in built.state_dict() if "semfocus" in key] == [
            "model.layers.1.self_attn.semfocus.temperature"
        ]
        with torch.no_grad():
            built.model.layers[1].self_attn.semfocus.temperature.fill_(0.5)
        built.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert torch.equal(again(ids()).logits, built(ids()).logits)
        assert verified(again) == [BASE, "scaled:k=2"]
    refused = pytest.raises(ValueError, match="scaled has trainable parameters for all heads; expected it for whole")
    with refused:
        model(tables={"heads": {"0": "scaled"}})
    with refused:
        model(name="scaled", tables={"layers": {"1": {"0": "sdpa"}}})


def test_an_adapter_keeps_them(tmp_path):
    base = model("gpt2")
    base.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted(ids()).logits
    for name in ("sdpa", None):
        dense = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation=name)
        if name is not None:
            dense.config.semfocus = {}
        again = hf_semfocus.load_adapter(tmp_path / "adapter", dense).eval()
        assert torch.equal(again(ids()).logits, expected)
        assert {**again.config.semfocus} == {"k": 3, **TABLES}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["hf_semfocus"] == {"attention": BASE, "tables": {"": TABLES}}
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    other.config.semfocus = {"k": 3}
    other.set_attn_implementation("topk_sparse:k=4")
    with pytest.warns(UserWarning, match="was given .* and keeps it"):
        PeftModel.from_pretrained(other, tmp_path / "adapter")
    config["hf_semfocus"]["tables"] = {"vision_config": TABLES}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no part 'vision_config'"):
        hf_semfocus.load_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    config["hf_semfocus"]["tables"] = {"": {"k": 3}}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"tables=.*; expected layers and heads by part"):
        hf_semfocus.load_adapter(tmp_path / "adapter", AutoModelForCausalLM.from_pretrained(tmp_path / "base"))


def test_a_card_lists_every_attention():
    text = model_card(model("gpt2"), "me/mixed")
    for mechanism in ("topk_sparse", "bottomk_sparse", "banded_sparse", "random_sparse"):
        assert f"**`{mechanism}`**" in text
    assert "| `full, topk_sparse:k=3, bottomk_sparse:k=2` | 1 |" in text
    assert "| `share` | 0.25 |" in (of_share := model_card(model("gpt2", {}, "topk_sparse:share=0.25"), "me/share"))
    assert "| `k` |" not in of_share


def test_parts_have_tables_of_their_own(tmp_path):
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": VOCABULARY, "eos_token_id": 26, "semfocus": {"layers": {"0": "sdpa"}}},
        vision_config={**sizes, "image_size": 8, "patch_size": 4, "semfocus": {"heads": {"0": "sdpa"}}},
    )
    built = AutoModel.from_config(config, attn_implementation=BASE).eval()
    inputs = {"input_ids": ids(1), "pixel_values": torch.ones(1, 3, 8, 8)}
    assert sorted(verified(built, **inputs)) == sorted(["full", BASE, *[f"full, {BASE}"] * 2])
    built.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).vision_config.semfocus["heads"] == {"0": "sdpa"}
