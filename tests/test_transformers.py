"""Mechanisms inside real Transformers models: parity, masks, caches, packing, compilation, checkpointing."""

import copy

import pytest
import torch
import transformers
from conftest import EVERYWHERE, SPARSE, VOCABULARY, backends_of, tiny_config
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

import hf_semfocus
from hf_semfocus import mechanisms

EVERYTHING = [
    "topk_sparse:k=99",
    "bottomk_sparse:k=99",
    "random_sparse:k=99",
    "banded_sparse:window=99",
    "block_local_sparse:block_size=99",
    "strided_sparse:window=99",
    "threshold_sparse:margin=99.0",
    "topp_sparse:p=1.0",
    "sink_sparse:first=99",
    "block_topk_sparse:block_size=3,k=99",
    "topk_sparse:share=1.0",
    "banded_sparse:window=3+bottomk_sparse:k=99",
    "sink_sparse:first=2+banded_sparse:window=99",
]
CAUSAL_LM = ["gpt2", "llama"]


def test_lists_above_are_complete():
    alone, softmax = [{mechanisms.base_name(spec) for spec in specs} for specs in (SPARSE, EVERYTHING)]
    assert {name for name in alone if "+" not in name} == set(mechanisms.names())
    assert alone - softmax - {"sink_sparse+banded_sparse+topk_sparse"} == {
        "entmax_sparse", "sparsemax_sparse", "asentmax_sparse",
    }  # fmt: skip


def model(family, spec, **changes):
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    torch.manual_seed(0)
    built = auto.from_config(tiny_config(family, **changes), attn_implementation=spec)
    # random models attend almost evenly; sharper attention makes every difference show
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(3.0)
    return built.eval()


def tokens(batch=2, length=12, low=3):
    return torch.randint(low, VOCABULARY, (batch, length))


def padded(ids, side):
    mask = torch.ones_like(ids)
    mask[0, slice(0, 4) if side == "left" else slice(8, None)] = 0
    return mask


@pytest.mark.parametrize("spec", EVERYTHING)
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_keeping_everything_equals_eager(family, spec, side):
    ids = tokens()
    mask = None if side == "none" else padded(ids, side)
    real = torch.ones_like(ids) if mask is None else mask
    ours, eager = (model(family, s)(ids, attention_mask=mask).logits[real.bool()] for s in (spec, "eager"))
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)


SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
SMALL_MOE = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}
OTHERS = {
    "T5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "Bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
             "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "Mistral": {**SMALL, "num_key_value_heads": 2, "sliding_window": 5},
    "Gemma2": {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0},
    "GptOss": {**SMALL_MOE, "sliding_window": 5},
    "ModernBert": {**SMALL, "local_attention": 6, "cls_token_id": 1, "sep_token_id": 2},
    "OPT": {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "ffn_dim": 48,
            "word_embed_proj_dim": 32},
    "DistilBert": {"dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 48},
    "Qwen2": {**SMALL, "num_key_value_heads": 2},
    "Roberta": SMALL,
}  # fmt: skip


@pytest.mark.parametrize("spec", ["topk_sparse:k=99", "bottomk_sparse:k=99", "banded_sparse:window=99,edge=cut"])
@pytest.mark.parametrize("family", OTHERS)
def test_keeping_everything_equals_eager_elsewhere(family, spec):
    """Softcap, sinks, relative position bias, sliding windows, cross-attention: nothing they pass is lost."""
    config = getattr(transformers, f"{family}Config")(
        **OTHERS[family], vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    ids = tokens()
    inputs = {"input_ids": ids, "attention_mask": padded(ids, "left")}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens(length=7)
    outs = []
    for name in ("eager", spec):
        torch.manual_seed(0)
        built = AutoModel.from_config(copy.deepcopy(config), attn_implementation=name).eval()
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        outs.append(built(**inputs)[0])
    real = slice(None) if config.is_encoder_decoder else inputs["attention_mask"].bool()
    torch.testing.assert_close(outs[1][real], outs[0][real], rtol=1e-4, atol=1e-5)
    if family not in ("ModernBert",):
        layers = hf_semfocus.verify(built, **inputs)
        assert len(layers) >= 2
        positional = spec.startswith("banded")
        cross = {"T5": 2, "Bart": 1}.get(family, 0) if positional else 0
        assert sum(used == "full" for used in layers.values()) == cross


@pytest.mark.parametrize("spec", SPARSE)
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_padding_changes_nothing(family, spec):
    built = model(family, spec)
    ids = tokens(batch=1, length=9)
    for side in ("left", "right"):
        junk = torch.full((1, 5), 7)
        wide = torch.cat([junk, ids] if side == "left" else [ids, junk], 1)
        mask = torch.ones_like(wide)
        mask[:, slice(0, 5) if side == "left" else slice(9, None)] = 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = built(wide, attention_mask=mask, position_ids=positions).logits[mask.bool()]
        torch.testing.assert_close(out, built(ids).logits[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", SPARSE)
@pytest.mark.parametrize("family", CAUSAL_LM)
def test_nothing_leaks_from_the_future(family, spec):
    built = model(family, spec)
    ids = tokens()
    changed = ids.clone()
    changed[:, 8:] = 3 + (changed[:, 8:] + 11) % (VOCABULARY - 3)
    assert torch.equal(built(ids).logits[:, :8], built(changed).logits[:, :8])


@pytest.mark.parametrize("spec", SPARSE)
@pytest.mark.parametrize("family", CAUSAL_LM)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_decoding_equals_prefill(family, spec, cache):
    built = model(family, spec)
    ids = tokens()
    kwargs = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True}
    out = built.generate(
        ids, attention_mask=padded(ids, "left"), cache_implementation=cache, output_logits=True, **kwargs
    )
    mask = torch.cat([padded(ids, "left"), torch.ones(2, 8, dtype=torch.long)], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    prefill = built(out.sequences, attention_mask=mask, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(torch.stack(out.logits, 1), prefill[:, 11:-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", SPARSE)
@pytest.mark.parametrize("family", CAUSAL_LM)
def test_packed_documents_do_not_see_each_other(family, spec):
    built = model(family, spec)
    first, second = tokens(1, 7), tokens(1, 10)
    positions = torch.cat([torch.arange(7), torch.arange(10)])[None]
    packed = built(torch.cat([first, second], 1), position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(packed[:, :7], built(first).logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed[:, 7:], built(second).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_user_masks_of_every_type_agree(family):
    built = model(family, "topk_sparse:k=3")
    ids = tokens()
    allowed = (torch.rand(2, 1, 12, 12) < 0.7) | torch.eye(12, dtype=torch.bool)
    if family != "bert":
        allowed &= torch.ones(12, 12).tril().bool()
    additive = torch.zeros(2, 1, 12, 12).masked_fill(~allowed, torch.finfo(torch.float32).min)
    outs = [built(ids, attention_mask=mask).logits for mask in (allowed, allowed.long(), allowed.int(), additive)]
    assert not torch.equal(outs[0], built(ids).logits)
    for out in outs[1:]:
        assert torch.equal(out, outs[0])


@pytest.mark.parametrize("spec", SPARSE)
def test_attention_called_without_a_mask_stays_causal(spec):
    built = model("llama", spec)
    attention = built.model.layers[0].self_attn
    function = transformers.AttentionInterface._global_mapping[spec]
    q, k, v = (torch.randn(1, heads, 9, 8) for heads in (4, 2, 2))
    mask = torch.ones(1, 1, 9, 9).tril().bool()
    given, _ = function(attention, q, k, v, mask)
    none, _ = function(attention, q, k, v, None)
    if "block_topk" in spec:  # which lists its blocks in another order where it need not read a mask
        torch.testing.assert_close(none, given, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(none, given)
    bidirectional, _ = function(attention, q, k, v, None, is_causal=False)
    assert not torch.allclose(bidirectional, given)


@pytest.mark.parametrize("name", ["indices", "block_indices", "sinks"])
def test_learned_sparsity_is_refused_by_name(name):
    attention = model("llama", "topk_sparse").model.layers[0].self_attn
    function = transformers.AttentionInterface._global_mapping["topk_sparse"]
    q, k, v = (torch.randn(1, heads, 9, 8) for heads in (4, 2, 2))
    with pytest.raises(ValueError, match=f"LlamaAttention passes '{name}'"):
        function(attention, q, k, v, None, **{name: torch.zeros(1, 9, 2, dtype=torch.long)})


def test_positions_hidden_by_a_sliding_window_are_refused():
    config = transformers.MistralConfig(**OTHERS["Mistral"], vocab_size=VOCABULARY)
    built = AutoModel.from_config(config, attn_implementation="block_local_sparse:block_size=4").eval()
    short = built(tokens(length=5)).last_hidden_state
    assert short.isfinite().all()
    with pytest.raises(ValueError, match="sliding window of 5 out of 6 keys; expected topk_sparse"):
        built(tokens(length=6))
    built.set_attn_implementation("banded_sparse:window=3")
    assert built(tokens(length=9)).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_weights_are_returned_when_asked_for(family):
    built = model(family, "topk_sparse:k=3")
    ids = tokens()
    out = built(ids, attention_mask=padded(ids, "left"), output_attentions=True)
    assert len(out.attentions) == 2
    kept = (out.attentions[0] > 0).sum(-1)
    assert kept.max() == 3
    assert (kept[0, :, :4] == (3 if family == "bert" else 0)).all()
    if family != "bert":
        generated = built.generate(ids, max_new_tokens=2, output_attentions=True, return_dict_in_generate=True)
        assert generated.attentions[1][0].shape[-1] == 13


def test_dropout_only_while_training():
    built = model("gpt2", "topk_sparse:k=3", attn_pdrop=0.5)
    ids = tokens()
    assert torch.equal(built(ids).logits, built(ids).logits)
    built.train()
    assert not torch.equal(built(ids).logits, built(ids).logits)


@pytest.mark.parametrize(("spec", "backend"), EVERYWHERE)
def test_gradient_checkpointing_recomputes_the_same(spec, backend):
    ids = tokens()
    gradients = []
    for recompute in (False, True):
        built = model("llama", spec, attention_dropout=0.3, semfocus={"backend": backend}).train()
        if recompute:
            built.gradient_checkpointing_enable()
        torch.manual_seed(5)
        built(ids, labels=ids).loss.backward()
        gradients.append(built.model.embed_tokens.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("spec", SPARSE)
def test_back_ends_agree_in_a_model(spec):
    ids = tokens()
    outs = [
        model("llama", spec, semfocus={"backend": backend})(ids, attention_mask=padded(ids, "left")).logits
        for backend in (*backends_of(spec), "auto")
    ]
    for other in outs[1:]:
        torch.testing.assert_close(other, outs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", SPARSE)
def test_compiles_to_one_graph_and_follows_parameters(spec):
    name, params = mechanisms.parse(spec)
    torch._dynamo.reset()  # what other tests have compiled counts against a limit
    built = model("llama", name)
    built.config.semfocus = params
    compiled = torch.compile(built, backend="aot_eager", fullgraph=True)
    ids = tokens()
    with torch.no_grad():
        for more in (0, 1):
            change = lambda value: value + more if isinstance(value, int) else value * (1 - more / 10)  # noqa: B023, E731
            wanted = {key: change(value) for key, value in params.items()}
            built.config.semfocus = wanted
            found = compiled(ids).logits
            built.config.semfocus = {**wanted, "backend": "eager"}
            torch.testing.assert_close(found, built(ids).logits, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_bfloat16_and_autocast():
    ids = tokens()
    mask = padded(ids, "left")
    built = model("llama", "topk_sparse:k=3")
    with torch.autocast("cpu", torch.bfloat16):
        assert built(ids, attention_mask=mask).logits.isfinite().all()
    for dtype in (torch.bfloat16, torch.float16):
        assert built.to(dtype)(ids, attention_mask=mask).logits.isfinite().all()
