"""``Trainer`` from end to end, and ``pipeline``, with models whose attention is sparse."""

import json

import pytest
import torch
from conftest import VOCABULARY
from datasets import Dataset
from tiny_families import AUTO, EVERYTHING, SPARSE, build, tokens, used
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, pipeline


def trainer(family, folder, name=SPARSE, **options):
    rows = tokens(16, 8)
    labels = rows.clone()
    arguments = TrainingArguments(
        str(folder),
        max_steps=6,
        save_steps=2,
        eval_steps=2,
        eval_strategy="steps",
        load_best_model_at_end=True,
        per_device_train_batch_size=2,
        learning_rate=0.05,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    data = Dataset.from_dict({"input_ids": rows.tolist(), "labels": labels.tolist()})
    return Trainer(build(family, name), arguments, train_dataset=data, eval_dataset=data.select(range(4)))


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_trainer_resumes_exactly_and_loads_its_best_model(family, tmp_path):
    whole = trainer(family, tmp_path / "whole")
    whole.train()
    state = json.loads((tmp_path / "whole" / "checkpoint-6" / "trainer_state.json").read_text())
    losses = {record["step"]: record["eval_loss"] for record in state["log_history"] if "eval_loss" in record}
    best = min(losses, key=losses.get)
    loaded = AUTO[family].from_pretrained(tmp_path / "whole" / f"checkpoint-{best}").eval()
    assert used(loaded, family) == used(whole.model, family) == {SPARSE}
    for found, expected in zip(whole.model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(found, expected)
    assert whole.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-6)

    again = trainer(family, tmp_path / "again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    last = [AUTO[family].from_pretrained(tmp_path / run / "checkpoint-6") for run in ("whole", "again")]
    for found, expected in zip(*(model.parameters() for model in last), strict=True):
        assert torch.equal(found, expected)


def test_trainer_with_every_key_learns_what_sdpa_learns(tmp_path):
    losses = []
    for name in (EVERYTHING, "sdpa"):
        run = trainer("llama", tmp_path / name, name)
        run.train()
        losses.append([record["eval_loss"] for record in run.state.log_history if "eval_loss" in record])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.fixture
def tokenizer():
    words = {f"w{number}": number for number in range(VOCABULARY - 1)} | {"[MASK]": VOCABULARY - 1}
    made = Tokenizer(models.WordLevel(words, "w3"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w3", pad_token="w0", mask_token="[MASK]")


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_pipeline(family, tokenizer, tmp_path):
    """A saved model is sparse in it, a dense one with the name, and both say what the model itself says."""
    task = "fill-mask" if family == "bert" else "text-generation"
    text = "w5 w9 w14 [MASK] w7 w20 w11" if family == "bert" else "w5 w9 w14 w7 w20"
    options = {} if family == "bert" else {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
    answers = []
    for saved, kwargs in ((SPARSE, None), ("sdpa", {"attn_implementation": SPARSE})):
        build(family, saved).save_pretrained(tmp_path / saved)
        made = pipeline(task, model=str(tmp_path / saved), tokenizer=tokenizer, model_kwargs=kwargs)
        assert used(made.model, family) == {SPARSE}
        answers.append(made(text, **options))
    assert answers[0] == answers[1]
    encoded = tokenizer(text, return_tensors="pt")
    model = build(family, SPARSE)
    if family == "bert":
        scores = model(input_ids=encoded["input_ids"]).logits[0, 3].softmax(-1)
        assert answers[0][0]["token"] == scores.argmax()
    else:
        ids = model.generate(**encoded, max_new_tokens=5, do_sample=False)[0, -5:]
        assert answers[0][0]["generated_text"].split() == tokenizer.decode(ids).split()
