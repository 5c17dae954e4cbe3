"""Who sees whom in real models: whatever the cache, the mask and the direction, the answer is one."""

import copy

import pytest
import torch
import transformers
from conftest import CACHE, SPARSE, STATELESS, VOCABULARY, backends_of, tiny_config
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache, StaticCache

import hf_semfocus
from hf_semfocus import backends, sparse_attention
from hf_semfocus.hf import layers

# what a layer with a sliding window can compute
UNANCHORED = ["topk_sparse:k=3", "bottomk_sparse:k=3", "banded_sparse:window=3"]
LENGTH, PADDING, STEPS = 11, 3, {"one go": [11], "chunks": [4, 5, 2], "token by token": [1] * 11}
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def sharpened(auto, config, spec):
    """A random model that attends unevenly, so that every difference shows."""
    torch.manual_seed(0)
    built = auto.from_config(copy.deepcopy(config), attn_implementation=spec).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return built


def config_of(family):
    if family == "sliding":
        return transformers.MistralConfig(**SMALL, **IDS, num_key_value_heads=2, sliding_window=5)
    return tiny_config(family)


CACHES = [
    pytest.param(family, kind, spec, id=f"{family}-{kind}-{spec}")
    for family in ("gpt2", "llama", "sliding")
    for kind in ("dynamic", "static")
    for spec in (UNANCHORED if family == "sliding" else SPARSE)
]


@pytest.mark.parametrize(("family", "kind", "spec"), CACHES)
def test_decoding_equals_the_uncached_forward(family, kind, spec):
    model = sharpened(AutoModelForCausalLM, config_of(family), spec)
    ids = torch.randint(3, VOCABULARY, (2, LENGTH))
    ones, left = torch.ones_like(ids), torch.ones_like(ids)
    left[0, :PADDING] = 0
    for mask in (None, ones, left):
        shown = ones if mask is None else mask
        positions = (shown.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            expected = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        for steps in STEPS.values():
            cache = DynamicCache(config=model.config)
            if kind == "static":
                cache = StaticCache(config=model.config, max_cache_len=LENGTH + 6)
            logits, start = [], 0
            for size in steps:
                stop = start + size
                with torch.no_grad():
                    out = model(
                        ids[:, start:stop],
                        attention_mask=None if mask is None else mask[:, :stop],
                        position_ids=positions[:, start:stop],
                        use_cache=True,
                        **{CACHE: cache},
                    )
                logits.append(out.logits)
                start = stop
            found = torch.cat(logits, 1)
            torch.testing.assert_close(found[shown.bool()], expected[shown.bool()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["topk_sparse:k=3", "banded_sparse:window=3"])
def test_static_generation_equals_dynamic(spec):
    model = sharpened(AutoModelForCausalLM, tiny_config("llama"), spec)
    ids = torch.randint(3, VOCABULARY, (1, LENGTH))
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    dynamic, static = (model.generate(ids, cache_implementation=kind, **options) for kind in ("dynamic", "static"))
    torch.testing.assert_close(torch.stack(static.logits), torch.stack(dynamic.logits), rtol=1e-4, atol=1e-5)


# encoders whose attention modules say nothing of causality, or the wrong thing
ENCODERS = {
    "Splinter": SMALL,
    "LayoutLM": SMALL,
    "MarkupLM": {**SMALL, "max_depth": 4},
    "Bert": SMALL,
}


@pytest.mark.parametrize(
    "spec", ["topk_sparse:k=99", "banded_sparse:window=99,edge=cut", "banded_sparse:window=5,edge=cut"]
)
@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_look_both_ways(family, spec):
    config = getattr(transformers, f"{family}Config")(**ENCODERS[family], **IDS)
    ids = torch.randint(3, VOCABULARY, (2, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    if "window=5" in spec:
        model = sharpened(AutoModel, config, spec)
        before = model(ids).last_hidden_state
        changed = ids.clone()
        changed[:, 5] = 3 + (changed[:, 5] + 7) % (VOCABULARY - 3)
        moved = (model(changed).last_hidden_state - before).abs().amax((0, 2)) > 1e-5
        # two layers of a band of two keys on either side
        assert moved.tolist() == [1 <= position <= 9 for position in range(LENGTH)]
        return
    for given in (None, mask):
        ours, eager = (
            sharpened(AutoModel, config, name)(ids, attention_mask=given).last_hidden_state[mask.bool()]
            for name in (spec, "eager")
        )
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["native", "gather", "chunked", "eager"])
def test_the_mask_alone_decides_where_there_is_one(backend):
    """A module that says ``is_causal`` under a bidirectional mask gets what the mask says, from every backend."""
    function = transformers.AttentionInterface()["topk_sparse"]
    module = torch.nn.Module()
    module.is_causal, module.config = True, transformers.BertConfig(semfocus={"k": 3, "backend": backend})
    q, k, v = torch.randn(3, 2, 2, 9, 8)
    mask = torch.ones(2, 1, 9, 9, dtype=torch.bool)
    found, _ = function(module, q, k, v, mask, output_attentions=False)
    expected = sparse_attention(q, k, v, "topk_sparse:k=3", backend="eager")
    torch.testing.assert_close(found.transpose(1, 2), expected, rtol=1e-5, atol=1e-6)


def nllb_moe():
    return transformers.NllbMoeConfig(
        **IDS, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_experts=2, expert_capacity=64, decoder_start_token_id=0,
        router_jitter_noise=0.0, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("spec", ["topk_sparse:k=99", "topk_sparse:k=3", "banded_sparse:window=3"])
def test_decoders_that_rely_on_the_mask_see_no_future(spec):
    """NLLB-MoE's decoder says ``is_causal=False`` and leaves causality to the mask."""
    ids, given = torch.randint(3, VOCABULARY, (2, 2, LENGTH))
    changed = given.clone()
    changed[:, -1] = 3 + (changed[:, -1] + 7) % (VOCABULARY - 3)
    model = sharpened(AutoModel, nllb_moe(), spec)
    before, after = (model(ids, decoder_input_ids=d).last_hidden_state for d in (given, changed))
    torch.testing.assert_close(after[:, :-1], before[:, :-1], rtol=1e-4, atol=1e-5)
    assert (after[:, -1] - before[:, -1]).abs().max() > 1e-3
    if spec == "topk_sparse:k=99":
        eager = sharpened(AutoModel, nllb_moe(), "eager")(ids, decoder_input_ids=given).last_hidden_state
        torch.testing.assert_close(before, eager, rtol=1e-4, atol=1e-5)
    if spec.startswith("banded"):
        used = hf_semfocus.verify(model, input_ids=ids, decoder_input_ids=given)
        full = {name for name, mechanism in used.items() if mechanism == "full"}
        assert full == {name for name in used if "cross_attention" in name}


def test_code_beside_the_interface_gets_the_mask_it_expects(monkeypatch):
    """BigBird-Pegasus' encoder adds the mask to its scores, which a mask of True and False would bias by one."""
    monkeypatch.setitem(layers.LEFT_ALONE, "BigBirdPegasusSelfAttention", "refused but for this test")
    config = transformers.BigBirdPegasusConfig(
        **IDS, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, attention_type="original_full", max_position_embeddings=64,
        decoder_start_token_id=0, dropout=0.0,
    )  # fmt: skip
    ids = torch.randint(3, VOCABULARY, (2, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    outs = [
        sharpened(AutoModel, config, name)(ids, attention_mask=mask, decoder_input_ids=ids).last_hidden_state
        for name in ("topk_sparse:k=99", "eager")
    ]
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_mask_that_is_written_to_means_what_it_says(mode):
    """A pair that a model opens by hand after the mask was made is seen, also where writes leave no trace."""
    function = transformers.AttentionInterface()["topk_sparse"]
    module = torch.nn.Module()
    module.is_causal, module.config = True, transformers.BertConfig(semfocus={"k": 9})
    sizes = {"batch_size": 1, "q_length": 6, "kv_length": 6, "q_offset": 0, "kv_offset": 0}
    q, k, v = torch.randn(3, 1, 2, 6, 8)
    with mode():
        mask = transformers.AttentionMaskInterface()["topk_sparse"](
            **sizes, allow_is_causal_skip=True, attention_mask=None, config=None
        )
        mask[..., 0, 5] = True
        found, _ = function(module, q, k, v, mask)
        expected = sparse_attention(q, k, v, "topk_sparse:k=9", attn_mask=mask, backend="eager")
    torch.testing.assert_close(found.transpose(1, 2), expected, rtol=1e-5, atol=1e-6)


def test_models_that_need_no_mask_get_none():
    """The kernels' fast path for plain causality and for no padding; what is marked for it is not saved."""
    seen = []

    def watch(module, args, kwargs):
        seen.append(kwargs.get("attention_mask", args[1] if len(args) > 1 else None))

    for family in ("gpt2", "llama", "bert"):
        model = sharpened(AutoModel, tiny_config(family), "topk_sparse:k=3")
        [attention, *_] = (m for m in model.modules() if type(m).__name__.endswith(("Attention", "SelfAttention")))
        attention.register_forward_pre_hook(watch, with_kwargs=True)
        ids = torch.randint(3, VOCABULARY, (2, LENGTH))
        model(ids, attention_mask=torch.ones_like(ids))
        assert not any("_semfocus" in name for name in model.config.to_dict())
        assert not any("_semfocus" in name for name in model.config.to_diff_dict())
    assert seen == [None, None, None]


@pytest.mark.parametrize("spec", ["topk_sparse:k=3", "banded_sparse:window=3,edge=cut"])
def test_masks_under_compilation(spec):
    """The direction of a mask is known inside a graph too, where nobody can look at its values."""
    config = transformers.SplinterConfig(**SMALL, **IDS)
    ids = torch.randint(3, VOCABULARY, (2, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    model = sharpened(AutoModel, config, spec)
    plain = model(ids, attention_mask=mask).last_hidden_state
    compiled = torch.compile(model, backend="aot_eager")(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["banded_sparse", "random_sparse", "block_local_sparse", "strided_sparse"])
def test_more_queries_than_keys_have_no_positions(spec):
    query, key = torch.randn(1, 2, 7, 8), torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match="7 queries over 5 keys"):
        sparse_attention(query, key, key, spec)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_more_queries_than_keys_by_score(causal, masked):
    """The first queries come before the first key and see nothing; with and without a mask, in every backend."""
    query, key, value = torch.randn(1, 2, 7, 8), *torch.randn(2, 1, 2, 5, 8)
    mask = torch.ones(7, 5, dtype=torch.bool) if masked else None
    outs = [
        sparse_attention(query, key, value, "topk_sparse:k=2", attn_mask=mask, is_causal=causal, backend=name)
        for name in ("eager", "chunked", "gather", "native")
    ]
    for out in outs:
        torch.testing.assert_close(out, outs[0], rtol=1e-5, atol=1e-6)
        assert bool((out[:, :, :2] == 0).all()) == causal


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("spec", STATELESS)
def test_what_nobody_may_see_may_hold_anything(spec, junk):
    """Padding on the left, keys after the last query, and the empty end of a cache hold NaN and infinity."""
    hidden = {"left": slice(0, 3), "right": slice(8, None)}
    for side, where in hidden.items():
        for causal in (False, True):
            q, k, v = (torch.randn(2, 2, LENGTH, 8) for _ in range(3))
            mask = torch.ones(2, 1, 1, LENGTH, dtype=torch.bool)
            mask[..., where] = False
            results = []
            for fill in (0.0, junk):
                for tensor in (k, v):
                    tensor[:, :, where] = fill
                for backend in backends_of(spec):
                    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
                    out = sparse_attention(*leaves, spec, attn_mask=mask, is_causal=causal, backend=backend)
                    results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
            for found in results[1:]:
                for a, b in zip(found, results[0], strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=f"{side} causal={causal}")


def test_all_back_ends_are_tried_above():
    assert {"eager", "chunked", "gather", "native"} == set(backends.BACKENDS) - {"triton", "flex", "sdpa"}
