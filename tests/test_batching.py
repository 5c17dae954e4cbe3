"""Continuous batching is refused, whatever comes first, the name or the manager: it would run dense or wrong."""

import pytest
import torch
from conftest import tiny_config
from transformers import AttentionInterface, AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import continuous_api

from hf_semfocus import UnsupportedModelError

REFUSAL = "continuous batching does not support attn_implementation='topk_sparse:k=2' yet; expected model.generate"


def model(spec):
    return AutoModelForCausalLM.from_config(tiny_config("llama"), attn_implementation=spec).eval()


def options():
    return {
        "generation_config": GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=-1),
        "continuous_batching_config": ContinuousBatchingConfig(num_blocks=8, block_size=16, max_batch_tokens=32),
    }


@pytest.mark.parametrize("flash", [True, False])
def test_a_name_is_neither_replaced_nor_passed_over(flash, monkeypatch):
    for version in (2, 3):
        monkeypatch.setattr(continuous_api, f"is_flash_attn_{version}_available", lambda *args, **kwargs: flash)
    built = model("topk_sparse:k=2")
    with pytest.raises(ValueError, match=REFUSAL):
        built.init_continuous_batching(**options())
    with pytest.raises(ValueError, match=REFUSAL):
        built.generate_batch(inputs=[[3, 4, 5]], **options())
    assert built.config._attn_implementation == "topk_sparse:k=2"


def test_a_switch_after_the_manager_was_made_is_refused():
    built = model("eager")
    manager = built.init_continuous_batching(**options())
    paged = built.config._attn_implementation
    built.set_attn_implementation("topk_sparse:k=2")
    with pytest.raises(ValueError, match=REFUSAL):
        manager.start()
    built.set_attn_implementation(paged)
    manager.start()
    try:
        manager.add_request([3, 4, 5], request_id="dense")
        assert len(manager.get_result(timeout=60).generated_tokens) == 3
        built.set_attn_implementation("topk_sparse:k=2")
        manager.add_request([3, 4, 5], request_id="sparse")
        result = manager.get_result(timeout=60)
        assert result.generated_tokens == []
        assert "continuous batching" in result.error
        assert "which 'topk_sparse:k=2' would ignore" in result.error
    finally:
        manager.stop(block=True, timeout=60)


@pytest.mark.parametrize("name", ["cache", "read_index", "write_index", "block_table"])
def test_what_only_continuous_batching_passes_is_refused_by_name(name):
    attention = model("topk_sparse:k=2").model.layers[0].self_attn
    function = AttentionInterface._global_mapping["topk_sparse:k=2"]
    q, k, v = (torch.randn(1, heads, 9, 8) for heads in (4, 2, 2))
    with pytest.raises(UnsupportedModelError, match=f"LlamaAttention passes '{name}' .*continuous batching"):
        function(attention, q, k, v, None, **{name: []})
    function(attention, q, k, v, None, **{name: None})
