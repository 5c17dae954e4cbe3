"""Model families of Transformers: our attention is right, or the class is refused; see :mod:`families`."""

import re
import sys
from pathlib import Path

import families
import family_calls
import family_check
import family_page
import family_record
import pytest
import torch
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
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


def recorded(name):
    """Outcome and reason of a class at the two ends, which agree for these."""
    found = [family_record.read(version)[name] for version in family_record.versions()]
    outcomes = {(one["outcome"], one.get("reason")) for one in found}
    assert len(outcomes) == 1, outcomes
    return outcomes.pop()


@pytest.mark.parametrize("name", [*SUPPORTED, *REFUSED])
def test_the_records_are_what_is_found_now(name):
    found = family_check.check(name)
    assert (found["outcome"], found.get("reason")) == recorded(name), found["why"]
    assert found["outcome"] == ("supported" if name in SUPPORTED else "refused")


def test_the_page_and_the_readme_say_what_is_recorded():
    assert family_page.PAGE.read_text() == family_page.page(), "python tests/families.py writes it anew"
    readme = " ".join((ROOT / "README.md").read_text().split())
    newest = family_record.totals(family_record.versions()[-1])
    assert (
        f"Of {newest['families']} families of models, {newest['supported']} work, {newest['refused']} are refused "
        f"with a reason, and {newest['not measured']} could not be tried"
    ) in readme


def test_the_records_are_of_both_ends_and_say_that_nothing_is_wrong():
    lower, upper = family_record.versions()
    bounds = re.search('"transformers([<>=].*?)"', (ROOT / "pyproject.toml").read_text())[1]
    inside = SpecifierSet(bounds)
    assert inside.contains(f"{lower}.0")
    assert inside.contains(f"{upper}.0")
    assert not any(inside.contains(outside) for outside in (_next(lower, -1), _next(upper, 1)))
    for version in (lower, upper):
        totals = family_record.totals(version)
        assert totals.get("wrong", 0) == 0
        assert totals["not measured"] < 20
    assert totals["supported"] >= 340


def _next(version, by):
    major, minor = map(int, version.split("."))
    return f"{major}.{minor + by}.0"


def test_every_refusal_has_a_reason_that_is_measured_again():
    reasons = {family_record.kind(recorded(name)[1]) for name in REFUSED}
    assert reasons == set(family_record.REASONS)
    for version in family_record.versions():
        for one in family_record.read(version).values():
            if one["outcome"] == "refused":
                assert family_record.kind(one["reason"]) in reasons
            else:
                assert one["outcome"] == "supported" or one["why"]


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
def test_every_class_is_found_as_it_is_recorded():
    """Classes of a Transformers between the ends may be new; they are right or refused, too."""
    ends = [family_record.read(version) for version in family_record.versions()]
    for found in families.sweep(families.classes()):
        one = family_record.compact(found)
        assert one["outcome"] not in family_record.BAD, one
        known = [end[one["class"]]["outcome"] for end in ends if one["class"] in end]
        assert not known or one["outcome"] in known, one
