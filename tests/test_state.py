"""Mechanisms with trainable parameters: they are made with a model, trained, saved, loaded, and used by its layers."""

import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
from conftest import tiny_config
from peft import PeftModel
from test_register import registered  # noqa: F401  (fixture)
from torch import nn
from transformers import AutoModelForCausalLM

import hf_semfocus
from hf_semfocus import load_adapter
from hf_semfocus.adapters.lora import add_lora
from hf_semfocus.analysis import capture
from hf_semfocus.mechanisms import Mechanism, count, register
from hf_semfocus.training.schedules import FocusSchedule

IDS = torch.arange(1, 11).view(1, -1)


class Temperature(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.log = nn.Parameter(torch.empty(heads, 1, 1))

    def reset_parameters(self):
        nn.init.constant_(self.log, 0.25)


@dataclass(frozen=True, kw_only=True)
class Tempered(Mechanism):
    """Softmax at a learned temperature per head."""

    k: int = count(4, "keys a query keeps")

    def create_state(self, layer, config):
        return Temperature(config.num_attention_heads)

    def priority(self, scores, at):
        return scores

    def normalize(self, scores, keep):
        return super().normalize(scores * self.state.log.exp(), keep)


@dataclass(frozen=True, kw_only=True)
class Chosen(Tempered):
    """Keys chosen by a learned multiple of the scores; the choice gates their weights."""

    differentiable_selection = True

    def priority(self, scores, at):
        return scores * self.state.log

    def normalize(self, scores, keep, priority):
        return Mechanism.normalize(self, scores, keep) * priority.sigmoid()


@pytest.fixture(autouse=True)
def classes(registered):  # noqa: F811
    register("tempered")(Tempered)
    register("chosen")(Chosen)


def make(attention="tempered", family="gpt2"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(family), attn_implementation=attention).eval()


def states(model):
    return {name: p for name, p in model.named_parameters() if "semfocus" in name}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_parameters_are_made_with_the_model_and_used(family):
    model = make(family=family)
    found = states(model)
    assert len(found) == 2
    for name, p in found.items():
        assert name.endswith("attn.semfocus.log")
        assert torch.equal(p, torch.full((4, 1, 1), 0.25))
    before = model(IDS).logits
    with torch.no_grad():
        for p in found.values():
            p.zero_()
    neutral = model(IDS).logits
    assert not torch.allclose(neutral, before)
    model.set_attn_implementation("topk_sparse:k=4")
    torch.testing.assert_close(model(IDS).logits, neutral)
    assert len(states(model)) == 2


@pytest.mark.parametrize("attention", ["tempered", "chosen", "chosen:k=2"])
@pytest.mark.parametrize("backend", ["eager", "chunked"])
def test_one_step_of_training(attention, backend):
    model = make(attention)
    hf_semfocus.configure(model, backend=backend, **({"k": 2} if "k" in attention[7:] else {}))
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    first = model(IDS, labels=IDS).loss
    first.backward()
    for p in states(model).values():
        assert (p.grad != 0).all()
    optimizer.step()
    assert model(IDS, labels=IDS).loss < first


def test_the_gradient_of_a_choice_is_that_of_finite_differences():
    model = make("chosen").double()
    p = model.transformer.h[1].attn.semfocus.log
    before = model(IDS).logits.square().sum()
    (grad,) = torch.autograd.grad(before, p)
    with torch.no_grad():
        p[2] += 1e-6
    after = model(IDS).logits.square().sum()
    assert grad[2].item() == pytest.approx(((after - before) / 1e-6).item(), rel=1e-4)


def test_saved_and_loaded(tmp_path):
    model = make()
    with torch.no_grad():
        for shift, p in enumerate(states(model).values()):
            p.copy_(torch.randn(4, 1, 1) + shift)
    model.save_pretrained(tmp_path)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for one, other in zip(states(model).values(), states(again).values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(again.eval()(IDS).logits, model(IDS).logits)


def test_a_dense_checkpoint_gets_first_values(tmp_path):
    make("sdpa").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="tempered", dtype=torch.bfloat16)
    for p in states(model).values():
        assert torch.equal(p, torch.full((4, 1, 1), 0.25, dtype=torch.bfloat16))


def test_a_switch_makes_them_and_keeps_what_was_trained():
    model = make("sdpa").to(torch.bfloat16)
    assert not states(model)
    model.set_attn_implementation("tempered")
    assert {p.dtype for p in states(model).values()} == {torch.bfloat16}
    with torch.no_grad():
        for p in states(model).values():
            p.fill_(2)
    model.set_attn_implementation("sdpa")
    hf_semfocus.configure(model, "tempered", k=3)
    assert all((p == 2).all() for p in states(model).values())
    model.set_attn_implementation("chosen")
    assert all((p == 0.25).all() for p in states(model).values())


def test_what_has_no_parameters_is_refused():
    q = torch.randn(1, 2, 5, 4)
    with pytest.raises(ValueError, match=r"tempered:k=4 has trainable parameters, .* expected a model"):
        hf_semfocus.sparse_attention(q, q, q, "tempered")
    model = make()
    del model.transformer.h[1].attn.semfocus
    with pytest.raises(ValueError, match="GPT2Attention has no parameters of 'tempered'"):
        model(IDS)

    @dataclass(frozen=True, kw_only=True)
    class Nothing(Tempered):
        def create_state(self, layer, config):
            return 3

    register("nothing")(Nothing)
    with pytest.raises(ValueError, match=r"nothing: create_state\(\) returned int; expected a torch.nn.Module"):
        make("nothing")


def test_a_switch_that_fails_changes_nothing():
    @dataclass(frozen=True, kw_only=True)
    class Half(Tempered):
        def create_state(self, layer, config):
            return super().create_state(layer, config) if layer.layer_idx == 0 else None

    register("half")(Half)
    model = make("topk_sparse:k=2")
    before = model(IDS).logits
    for switch in (model.set_attn_implementation, lambda name: hf_semfocus.configure(model, name, k=3)):
        with pytest.raises(ValueError, match=r"create_state\(\) returned NoneType"):
            switch("half")
        assert model.config._attn_implementation == "topk_sparse:k=2"
        assert not states(model)
        assert torch.equal(model(IDS).logits, before)


def test_nothing_outlives_its_model():
    model = make("tempered:k=7")
    model(IDS)
    left = [weakref.ref(p) for p in states(model).values()]
    del model
    gc.collect()
    assert [p() for p in left] == [None, None]


def test_others_are_not_measured_by_parameters_they_lack():
    refused = pytest.raises(ValueError, match=r"chosen:k=4 has trainable parameters; expected")
    with refused, capture(make("sdpa"), mechanism="chosen"):
        pass


def test_a_schedule_trains_parameters_from_the_first_step():
    assert FocusSchedule.parse("tempered@5>sdpa@10>tempered:k=2").names[-1] == "tempered:k=2"
    with pytest.raises(ValueError, match="tempered has trainable parameters; expected it from the first step"):
        FocusSchedule.parse("sdpa@5>tempered:k=2")


def test_a_differentiable_selection_needs_both_slots():
    @dataclass(frozen=True, kw_only=True)
    class Half(Mechanism):
        differentiable_selection = True
        k: int = count(2, "keys")

        def priority(self, scores, at):
            return scores

    with pytest.raises(ValueError, match="has differentiable_selection but not both slots"):
        register("half")(Half)


def test_lora_trains_and_saves_them(tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "base")
    adapted = add_lora(model, "causal_lm", r=2)
    trained = {name: p for name, p in states(adapted).items() if p.requires_grad}
    assert len(trained) == 2
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    before = [p.clone() for p in trained.values()]
    adapted(IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert not any(torch.equal(p, old) for p, old in zip(trained.values(), before, strict=True))
    adapted.eval()
    expected = adapted(IDS).logits
    adapted.get_base_model().set_attn_implementation("tempered:k=4")  # leaves them as they are
    assert torch.equal(adapted(IDS).logits, expected)
    adapted.save_pretrained(tmp_path / "adapter")

    def base(attention):
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation=attention).eval()

    for again in (
        load_adapter(tmp_path / "adapter", base("sdpa")),
        PeftModel.from_pretrained(base(None), tmp_path / "adapter"),
    ):
        assert torch.equal(again.eval()(IDS).logits, expected)
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(IDS).logits, merged(IDS).logits
    )


def test_an_adapter_with_parameters_refuses_a_base_model_without(tmp_path):
    model = make()
    dense = AutoModelForCausalLM.from_config(tiny_config("gpt2"))
    add_lora(model, "causal_lm", r=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"whose parameters it holds.*expected hf_semfocus.load_adapter"):
        PeftModel.from_pretrained(dense, tmp_path)
