"""Keys that training draws anew: in which passes, from which numbers, and whether a training can be resumed."""

import re

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from datasets import Dataset
from test_training import start, timeless
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from hf_semfocus import sparse_attention
from hf_semfocus.backends import chunked
from hf_semfocus.hf import observe

SPEC = "random_sparse:k=3,redraw=forward"
IDS = torch.randint(3, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(0))


def model(spec=SPEC, **changes):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(tiny_config("gpt2", **changes), attn_implementation=spec)
    return made.train()


def drawn(model, **inputs):
    """The draw of every call of an attention in a forward pass."""
    calls = []
    with observe.watch(model, calls.append):
        model(IDS, **inputs)
    return [int(call.problem.draw) for call in calls]


def test_every_layer_and_forward_of_training_has_a_draw_and_evaluation_the_fixed_one():
    one = model()
    draws = drawn(one) + drawn(one)
    assert len(set(draws)) == len(draws) == 4
    assert 0 not in draws
    one.eval()
    assert drawn(one) == [0, 0]
    assert torch.equal(one(IDS).logits, model("random_sparse:k=3").eval()(IDS).logits)
    assert drawn(model("random_sparse:k=3")) == [0, 0]


def test_a_draw_is_a_seed():
    q = torch.randn(1, 2, 12, 4, dtype=torch.float64)
    for backend in ("eager", "chunked", "gather", "native"):
        query = q.float() if backend == "native" else q
        torch.manual_seed(5)
        draw = int(torch.randint(1, 2**31, ()))
        torch.manual_seed(5)
        found = sparse_attention(query, query, query, SPEC, backend=backend, is_causal=True)
        same = sparse_attention(query, query, query, f"random_sparse:k=3,seed={draw}", is_causal=True)
        torch.testing.assert_close(found, same)


def test_chunks_share_a_draw(monkeypatch):
    q = torch.randn(1, 2, 12, 4, dtype=torch.float64)
    whole, parts = [], []
    for found, size in ((whole, 10_000), (parts, 12)):
        monkeypatch.setattr(chunked, "CHUNK_SCORES", size)
        query = q.clone().requires_grad_()
        torch.manual_seed(1)
        out = sparse_attention(query, query, query, SPEC, backend="chunked")
        found += [out, *torch.autograd.grad(out.sin().sum(), query)]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_computes_the_same_draw_again(reentrant):
    gradients = []
    for checkpointing in (False, True):
        one = model()
        if checkpointing:
            one.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(3)
        one(IDS, labels=IDS).loss.backward()
        gradients.append([parameter.grad for parameter in one.parameters()])
    assert all(map(torch.equal, *gradients))


def test_keys_are_spread_evenly_over_draws():
    q = torch.randn(1, 4, 20, 4)
    kept = torch.zeros(4, 20, 20)
    torch.manual_seed(0)
    for _ in range(300):
        weights = sparse_attention(q, q, q, "random_sparse:k=5,redraw=forward", return_weights=True)[1][0]
        assert ((weights > 0).sum(-1) == 5).all()
        kept += weights > 0
    # each key is kept by binomial(300, 0.25): 75 give or take 7.5
    assert (kept - 75).abs().max() < 5 * 7.5
    assert abs(kept.var().item() / 56.25 - 1) < 0.15


def trainer(folder, **options):
    rows = Dataset.from_dict({"input_ids": IDS.repeat(8, 1).tolist(), "labels": IDS.repeat(8, 1).tolist()})
    arguments = TrainingArguments(
        output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, max_steps=6, logging_steps=1,
        per_device_train_batch_size=2, **options,
    )  # fmt: skip
    return Trainer(model(resid_pdrop=0.1), arguments, train_dataset=rows)


def test_a_trainer_resumes_exactly(tmp_path):
    whole = trainer(tmp_path, save_strategy="steps", save_steps=3)
    whole.train()
    again = trainer(tmp_path / "again", save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    losses = [[log["loss"] for log in each.state.log_history if "loss" in log] for each in (whole, again)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    assert all(map(torch.equal, whole.model.parameters(), again.model.parameters()))


def test_a_recipe_resumes_exactly(tmp_path):
    _, whole = start(tmp_path / "whole", SPEC, epochs=4, logging_steps=1)
    start(tmp_path / "parts", SPEC, epochs=2, logging_steps=1)
    _, again = start(tmp_path / "parts", SPEC, epochs=4, logging_steps=1, resume=True)
    assert timeless(again) == timeless(whole)
    _, fixed = start(tmp_path / "fixed", "random_sparse:k=3", epochs=4, logging_steps=1)
    losses = [[record["train_loss"] for record in records if "train_loss" in record] for records in (fixed, again)]
    assert losses[0] != losses[1]


def test_a_choice_that_there_is_not():
    with pytest.raises(ValueError, match=re.escape("redraw='always' is not allowed; expected one of 'never'")):
        sparse_attention(*torch.randn(3, 1, 1, 2, 2), "random_sparse:redraw=always")


def test_a_graph_draws_anew():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda q: sparse_attention(q, q, q, SPEC, is_causal=True), backend="aot_eager", fullgraph=True
    )
    q = torch.randn(1, 2, 12, 4)
    assert not torch.equal(compiled(q), compiled(q))
    torch.manual_seed(0)
    first = compiled(q)
    torch.manual_seed(0)
    assert torch.equal(first, compiled(q))
    torch._dynamo.reset()
