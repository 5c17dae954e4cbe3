"""Model families of Transformers: our attention is right, or the class is refused; see :mod:`families`."""

import sys

import families
import family_calls
import family_check
import family_record
import pytest
import torch

# the families that most people use, and an odd one of every kind
SUPPORTED = [
    "GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "Gemma2ForCausalLM", "GptOssForCausalLM",
    "OPTForCausalLM", "GPTNeoXForCausalLM", "DeepseekV4ForCausalLM", "NllbMoeModel", "BertModel", "BertLMHeadModel",
    "RobertaModel", "DistilBertModel", "AlbertModel", "ModernBertModel", "SplinterModel", "LayoutLMModel", "T5Model",
    "BartModel", "PegasusModel", "WhisperModel", "ViTModel", "CLIPModel", "SiglipModel",
    "DetrModel", "MiniMaxModel", "ViTMAEForPreTraining",
]  # fmt: skip
REFUSED = ["BloomModel", "DebertaV2Model", "MambaModel", "GPTNeoModel", "DeepseekV32ForCausalLM", "LongT5Model",
           "BigBirdPegasusModel", "SamVisionModel", "GitModel", "PatchTSMixerModel"]  # fmt: skip


@pytest.mark.parametrize("name", SUPPORTED)
def test_supported(name):
    found = family_check.check(name)
    assert (found["outcome"], found["why"]) == ("supported", "")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    found = family_check.check(name)
    assert found["outcome"] == "refused", found["why"]
    assert family_record.kind(found["reason"])


def test_every_kind_of_attention_elsewhere_is_found():
    """The detector of attention that goes around the interface sees it, and nothing else."""
    query = torch.randn(2, 3, 5, 4)
    attention = torch.nn.MultiheadAttention(12, 3, batch_first=True).eval()
    sequence = query.transpose(1, 2).flatten(2)
    ways = {
        "formula": lambda: (query @ query.mT).softmax(-1) @ query,
        "scaled and masked": lambda: (query @ query.mT).softmax(-1).masked_fill(torch.eye(5) > 0, 0.0) @ query,
        "sdpa": lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query),
        "module": lambda: attention(sequence, sequence, sequence),
        "einsum": lambda: torch.einsum("bhqk,bhkd->bhqd", (query @ query.mT).softmax(-1), query),
    }
    for name, way in ways.items():
        with torch.no_grad(), family_calls.Elsewhere() as elsewhere:
            way()
        assert elsewhere.places, name
    with torch.no_grad(), family_calls.Elsewhere() as elsewhere:
        routed = (query.softmax(-1)[..., :1] * query) @ query.mT
        routed.softmax(-1).topk(2)
    assert not elsewhere.places


def test_a_process_that_dies_or_hangs_is_replaced(monkeypatch):
    code = """
import json, sys, time
for line in sys.stdin:
    {"dies\\n": lambda: sys.exit(3), "hangs\\n": lambda: time.sleep(600)}.get(line, int)()
    print(json.dumps({"class": line.strip(), "outcome": "supported", "why": ""}), flush=True)
"""
    monkeypatch.setattr(families, "WORKER", [sys.executable, "-c", code])
    found = {one["class"]: one["outcome"] for one in families.sweep(["first", "hangs", "dies", "last"], limit=1.0)}
    assert found == {"first": "supported", "hangs": "timed out", "dies": "crashed", "last": "supported"}


@pytest.mark.slow
def test_every_class_is_supported_or_refused():
    wrong = [one for one in families.sweep(families.classes()) if one["outcome"] in family_record.BAD]
    assert not wrong, "\n".join(f"{one['class']}: {one['why']}" for one in wrong)
