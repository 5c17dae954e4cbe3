"""``generate`` in all its ways: with every key kept it is that of ``sdpa``, and a cache changes nothing."""

import pytest
import torch
from conftest import CACHE
from tiny_families import DECODERS, EVERYTHING, LENGTH, SPARSE, build, left_padded, tokens
from transformers import DynamicCache
from transformers.cache_utils import QuantizedLayer

NEW = 8
SPARSE_TOO = "banded_sparse:window=3,num_global_tokens=1"
WAYS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 0},
    "beam search": {"do_sample": False, "num_beams": 3},
    "beam sampling": {"do_sample": True, "num_beams": 3},
}
SPECULATIVE = {
    "assisted": lambda family: {"assistant_model": build(family, SPARSE, seed=1)},
    "prompt lookup": lambda family: {"prompt_lookup_num_tokens": 3},
}


def generated(model, ids, mask, **options):
    """Sequences, and the logits of every step."""
    torch.manual_seed(5)
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return out.sequences, torch.stack(out.logits)


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", DECODERS)
def test_generate(family, way):
    ids = tokens()
    mask = left_padded(ids)
    everything, dense = (generated(build(family, name), ids, mask, **WAYS[way]) for name in (EVERYTHING, "sdpa"))
    assert_same(everything, dense)
    for name in (SPARSE, SPARSE_TOO):
        cached, whole = (generated(build(family, name), ids, mask, use_cache=c, **WAYS[way]) for c in (True, False))
        assert_same(cached, whole)
        assert not torch.allclose(cached[1][0], dense[1][0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("way", SPECULATIVE)
@pytest.mark.parametrize("family", DECODERS)
def test_speculative_decoding_gives_what_greedy_decoding_gives(family, way):
    ids = tokens(rows=1).repeat(1, 2)  # so that there is something to look up
    for name in (SPARSE, SPARSE_TOO):
        model = build(family, name)
        expected = generated(model, ids, torch.ones_like(ids), do_sample=False)
        found = generated(model, ids, torch.ones_like(ids), do_sample=False, **SPECULATIVE[way](family))
        assert_same(found, expected)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("family", DECODERS)
def test_caches(family, cache):
    ids = tokens()
    for name in (SPARSE, SPARSE_TOO):
        model = build(family, name)
        expected = generated(model, ids, left_padded(ids), do_sample=False, use_cache=False)
        found = generated(model, ids, left_padded(ids), do_sample=False, cache_implementation=cache)
        assert_same(found, expected)


class Rounded(QuantizedLayer):
    """A layer of a quantized cache whose library is a rounding to multiples of ``1 / 8``."""

    def _quantize(self, tensor, axis):
        return (tensor * 8).round().to(torch.int32)

    def _dequantize(self, quantized):
        return quantized / 8


def quantized_cache(model, layer=Rounded):
    cache = DynamicCache()
    cache.layers = [layer(residual_length=4) for _ in range(model.config.num_hidden_layers)]
    return cache


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_quantized_caches(family):
    """Keys and values are those of the cache: with all kept, as ``sdpa`` has it of the same cache."""
    ids = tokens()
    outs = {}
    for name in (EVERYTHING, "sdpa", SPARSE):
        model = build(family, name)
        outs[name] = generated(model, ids, left_padded(ids), do_sample=False, **{CACHE: quantized_cache(model)})
    assert_same(outs[EVERYTHING], outs["sdpa"])
    exact = generated(build(family, EVERYTHING), ids, left_padded(ids), do_sample=False)
    assert not torch.allclose(outs[EVERYTHING][1], exact[1], rtol=1e-4, atol=1e-4)
    eager = build(family, SPARSE, semfocus={"backend": "eager"})
    options = {"do_sample": False, CACHE: quantized_cache(eager)}
    assert_same(outs[SPARSE], generated(eager, ids, left_padded(ids), **options))


@pytest.mark.parametrize("backend", ["quanto", "hqq"])
def test_quantized_caches_of_libraries(backend):
    pytest.importorskip({"quanto": "optimum.quanto", "hqq": "hqq"}[backend])
    ids = tokens()
    config = {"backend": backend, "nbits": 4, "q_group_size": 8, "residual_length": 4}
    options = {"do_sample": False, "cache_implementation": "quantized", "cache_config": config}
    outs = [generated(build("llama", name), ids, left_padded(ids), **options) for name in (EVERYTHING, "sdpa")]
    assert_same(*outs)


@pytest.mark.parametrize("family", DECODERS)
def test_weights_of_every_step(family):
    """What generate returns as attentions are the rows of one pass over the whole sequence."""
    ids = tokens()
    model = build(family, SPARSE)
    out = model.generate(
        ids,
        attention_mask=left_padded(ids),
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    if family == "t5":
        given = {"input_ids": ids, "attention_mask": left_padded(ids)}
        whole = model(decoder_input_ids=out.sequences[:, :-1], **given, output_attentions=True).decoder_attentions
        steps, start = out.decoder_attentions, 0
    else:
        mask = torch.cat([left_padded(ids), torch.ones(2, NEW, dtype=torch.long)], 1)[:, :-1]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        whole = model(
            out.sequences[:, :-1], attention_mask=mask, position_ids=positions, output_attentions=True
        ).attentions
        steps, start = out.attentions, LENGTH - 1
    for layer, expected in enumerate(whole):
        for step in range(1, NEW):
            row = steps[step][layer][:, :, -1]
            assert (row > 0).sum(-1).max() <= 3
            torch.testing.assert_close(row, expected[:, :, start + step, : row.shape[-1]], rtol=1e-4, atol=1e-4)
