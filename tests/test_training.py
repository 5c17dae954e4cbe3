"""The training loop: exact sums, exact resumption after a death at any moment, and refusals before it starts."""

import itertools
import json
import math
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import AutoModelForSequenceClassification

import hf_semfocus  # noqa: F401
from hf_semfocus import files as files_module
from hf_semfocus.console import parse
from hf_semfocus.data import SequenceRows
from hf_semfocus.data.batches import epoch_order, iterate, steps_per_epoch
from hf_semfocus.models import Sizes, build_model
from hf_semfocus.training import (
    ComparisonOptions,
    OutputFolder,
    TrainingOptions,
    classification,
    train,
)
from hf_semfocus.training import checkpoint as checkpoint_module
from hf_semfocus.training import progress as progress_module
from hf_semfocus.training import steps as steps_module
from hf_semfocus.training.log import MetricsLog, read

ROWS, BATCH = 23, 5
SIZES = Sizes(vocab_size=4, num_labels=2, pad_token_id=3, max_length=9, hidden_size=8, intermediate_size=8)
SIZES = replace(SIZES, num_layers=1, dropout=0.1)
TIMES = ("seconds", "steps_per_second", "tokens_per_second", "peak_memory_mb", "sessions")


def rows(count=ROWS, seed=0, shortest=3, **options):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, 3, rng.integers(shortest, 10)).tolist() for _ in range(count)]
    return SequenceRows(ids, [int(row[0] == row[-1]) for row in ids], pad_token_id=3, **options)


def options(folder, **changes):
    settings = {"epochs": 4, "batch_size": BATCH, "eval_batch_size": 4, "learning_rate": 0.1, "lr_decay": 0.9}
    settings |= {"optimizer": "sgd", "lr_scheduler": "constant", "warmup_steps": 0, "max_grad_norm": 0.5}
    settings |= {"target_accuracy": 2.0, "epochs_after_target": 2, "best_by": "accuracy"}
    return TrainingOptions(**{"output_dir": str(folder), **settings, **changes})


def fresh_model(attention="sdpa", **changes):
    set_seed(1)
    return build_model("classification", "paper", attention, replace(SIZES, **changes))


def start(folder, attention="sdpa", model=None, data=None, **changes):
    """One run in ``folder``, as a recipe would do it; returns its result and records."""
    chosen = options(folder, **changes)
    accelerator = Accelerator()
    output = OutputFolder(accelerator, chosen)
    run = output.run(attention, 7)
    model = fresh_model(attention) if model is None else model
    result = train(accelerator, model, chosen, run, train_rows=data or rows(), eval_rows=rows(11, seed=1))
    return result, read(run.log)


def timeless(records):
    """Records without what the clock says."""
    copies = json.loads(json.dumps(records))
    for record in copies:
        for holder in (record, record.get("reached") or {}):
            for name in TIMES:
                holder.pop(name, None)
    return copies


# ---- batches


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_make_up_the_batches_of_one_process(world):
    data = rows()
    order = epoch_order(ROWS, seed=3, epoch=2)
    assert sorted(order) == list(range(ROWS))
    whole = list(iterate(data, order, BATCH))
    shares = [list(iterate(data, order, BATCH, rank=rank, world=world)) for rank in range(world)]
    assert {len(share) for share in shares} == {len(whole)} == {steps_per_epoch(ROWS, BATCH)}
    for batch, *parts in zip(whole, *shares, strict=True):
        [expected] = batch.parts
        ids = torch.empty_like(expected.inputs["input_ids"])
        for rank, share in enumerate(parts):
            [part] = share.parts
            assert share.units == len(batch.rows)
            assert share.tokens == batch.tokens == ids.numel()
            assert part.empty == (rank >= len(batch.rows))
            if not part.empty:
                ids[rank::world] = part.inputs["input_ids"]
        assert torch.equal(ids, expected.inputs["input_ids"])


def test_an_epoch_can_start_anywhere():
    data, order = rows(), epoch_order(ROWS, seed=3, epoch=0)
    whole = list(iterate(data, order, BATCH))
    tail = list(iterate(data, order, BATCH, first=3))
    assert [batch.rows.tolist() for batch in tail] == [batch.rows.tolist() for batch in whole[3:]]


def test_order_depends_on_seed_and_epoch():
    orders = [epoch_order(50, *key).tolist() for key in ((1, 0), (1, 1), (2, 0), (1, 0))]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_padding_is_masked_or_a_token():
    data, plain, even = rows(), rows(pad_as_tokens=True), rows(shortest=9)
    batch = next(iterate(data, np.arange(ROWS), BATCH)).parts[0].inputs
    lengths = data.lengths[:BATCH]
    assert batch["attention_mask"].sum(1).tolist() == lengths.tolist()
    assert batch["input_ids"].shape[1] == lengths.max()
    assert ((batch["input_ids"] == 3) == (batch["attention_mask"] == 0)).all()
    for other in (plain, even):
        assert "attention_mask" not in next(iterate(other, np.arange(ROWS), BATCH)).parts[0].inputs


@pytest.mark.parametrize(
    ("model", "attention", "changes", "message"),
    [
        ("paper", "flex_attention", {}, "attention='flex_attention' takes no dropout, but dropout=0.1; expected 0"),
        ("gpt2", "sdpa", {"num_heads": 0}, "num_heads=0; expected an integer of at least 1"),
        ("bert", "sdpa", {"hidden_size": 0}, "hidden_size=0; expected an integer of at least 1"),
        ("llama", "sdpa", {"intermediate_size": -4}, "intermediate_size=-4; expected an integer of at least 1"),
        ("bert", "sdpa", {"num_heads": 3}, "hidden_size=8 with num_heads=3; expected a multiple of 3"),
        ("llama", "sdpa", {"num_heads": 8}, "hidden_size=8 with num_heads=8; expected a multiple of 16"),
        ("gpt2", "sdpa", {"dropout": 1.5}, r"dropout=1.5; expected a number in \[0, 1\)"),
        ("llama", "sdpa", {"activation": "relue"}, r"activation='relue' \(did you mean 'relu'\?\); expected one of "),
    ],
)
def test_sizes_that_a_model_cannot_have_are_refused(model, attention, changes, message):
    with pytest.raises(ValueError, match=message):
        build_model("classification", model, attention, replace(SIZES, **changes))


def test_bad_rows_are_refused():
    with pytest.raises(ValueError, match="2 sequences, the shortest of 0 tokens, and 2 labels"):
        SequenceRows([[1], []], [0, 1], 3)
    with pytest.raises(ValueError, match=r"1 sequences.*3 labels"):
        SequenceRows([[1]], [0, 1, 1], 3)


# ---- sums


def test_epoch_means_are_over_examples(tmp_path):
    model = fresh_model(dropout=0.0)
    data, held_out = rows(), rows(11, seed=1)
    _, [record] = start(tmp_path, model=model, data=data, epochs=1, learning_rate=0.0)
    model.eval()
    for prefix, source in (("train", data), ("eval", held_out)):
        losses, hits = [], []
        for row, label in enumerate(source.labels):
            ids = source.batch(np.array([row]), np.array([row]))["input_ids"]
            probabilities = model(ids).logits[0].double().softmax(-1)
            losses.append(-probabilities[label].log().item())
            hits.append(bool(probabilities[label] > 0.5))
        assert record[f"{prefix}_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
        assert record[f"{prefix}_accuracy"] == sum(hits) / len(hits)


@pytest.mark.parametrize("max_grad_norm", [0.05, math.inf])
def test_steps_are_clipped_gradient_descent(tmp_path, max_grad_norm):
    model, by_hand = fresh_model(dropout=0.0), fresh_model(dropout=0.0)
    data = rows()
    start(tmp_path, model=model, data=data, epochs=2, max_grad_norm=max_grad_norm)
    weights = list(by_hand.parameters())
    for epoch in range(2):
        for first in range(0, ROWS, BATCH):
            chosen = epoch_order(ROWS, 7, epoch)[first : first + BATCH]
            losses = []
            for row in chosen:
                logits = by_hand(data.batch(np.array([row]), np.array([row]))["input_ids"]).logits[0]
                losses.append(logits.logsumexp(0) - logits[data.labels[row]])
            gradients = torch.autograd.grad(sum(losses) / len(chosen), weights)
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.data -= 0.1 * 0.9**epoch * gradient * min(1.0, max_grad_norm / norm)
    for (name, weight), expected in zip(model.named_parameters(), weights, strict=True):
        torch.testing.assert_close(weight, expected, atol=2e-6, rtol=1e-4, msg=name)


def test_convergence_ends_a_run_two_epochs_later(tmp_path):
    result, records = start(tmp_path, target_accuracy=0.3, epochs=20, logging_steps=4)
    epochs = [record for record in records if record["kind"] == "epoch"]
    first = next(record for record in epochs if record["train_accuracy"] >= 0.3)
    assert result["status"] == "converged"
    assert result["reached"] == {name: first[name] for name in ("epoch", "step", "seconds")}
    assert [record["epoch"] for record in epochs] == list(range(1, first["epoch"] + 3))
    assert [record["step"] for record in records if record["kind"] == "step"] == list(
        range(4, epochs[-1]["step"] + 1, 4)
    )
    assert [record["learning_rate"] for record in epochs] == [0.1 * 0.9**i for i in range(len(epochs))]
    assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(epochs))


def test_max_steps_ends_a_run_within_an_epoch(tmp_path):
    result, [record, last] = start(tmp_path, max_steps=7, save_steps=7)
    assert (record["step"], last["step"], last["epoch"], result["status"]) == (5, 7, 2, "finished")


def test_best_and_last_models_are_what_was_evaluated(tmp_path):
    result, records = start(tmp_path, epochs=6, learning_rate=0.5)
    folder = tmp_path / "runs" / "sdpa_7"
    assert sorted(path.name for path in folder.iterdir()) == [
        "best", "checkpoint-00000030", "last", "metrics.jsonl", "result.json",
    ]  # fmt: skip
    data = rows(11, seed=1)
    scores = {}
    for name in ("best", "last"):
        assert sorted(path.name for path in (folder / name).iterdir()) == ["config.json", "model.safetensors"]
        model = AutoModelForSequenceClassification.from_pretrained(folder / name).eval()
        inputs = data.batch(np.arange(11), np.arange(11))
        _, predictions, labels = classification(model, inputs)
        scores[name] = int((predictions == labels).sum()) / 11
    assert scores == {"best": max(r["eval_accuracy"] for r in records), "last": result["eval_accuracy"]}


def test_infinite_loss_ends_only_its_run(tmp_path):
    model = fresh_model()
    calls = []

    def poison(module, inputs, logits):
        calls.append(module.training)
        return logits * float("nan") if sum(calls) == 8 else logits

    model.classifier.register_forward_hook(poison)
    result, records = start(tmp_path, model=model)
    assert result["status"] == "diverged"
    assert result["epoch"] == 1  # the last epoch that was whole
    assert [record["kind"] for record in records] == ["epoch", "diverged"]
    assert records[1]["step"] == 7
    assert records[1]["rows"] == epoch_order(ROWS, 7, 1)[10:15].tolist()
    assert records[1]["train_loss"] == "nan"
    last = AutoModelForSequenceClassification.from_pretrained(tmp_path / "runs" / "sdpa_7" / "last")
    assert all(torch.isfinite(weight).all() for weight in last.parameters())
    other, _ = start(tmp_path, "eager", resume=True)
    assert other["status"] == "finished"


def test_held_out_loss_that_is_not_finite_is_null_and_never_best(tmp_path):
    model = fresh_model()
    poison = lambda module, inputs, logits: logits if module.training else logits * float("nan")  # noqa: E731
    model.classifier.register_forward_hook(poison)
    result, records = start(tmp_path, model=model, epochs=2, best_by="loss")
    assert [record["eval_loss"] for record in records] == [None, None]
    assert (result["status"], result["eval_loss"]) == ("finished", None)
    assert not (tmp_path / "runs" / "sdpa_7" / "best").exists()


def test_missing_learning_rate_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="lr_decay=None; expected a value"):
        start(tmp_path, lr_decay=None)


# ---- resumption


class Killed(BaseException):
    """Raised where a kill -9 would strike: nothing catches it and nothing is cleaned up."""


def killed_at(monkeypatch, moment):
    """Raise ``Killed`` before the ``moment``-th operation on files that the training does."""
    count = 0

    def deadly(function):
        def wrapper(*args, **kwargs):
            nonlocal count
            count += 1
            if count == moment:
                raise Killed
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(files_module.os, "replace", deadly(os.replace))
    monkeypatch.setattr(files_module.os, "rename", deadly(os.rename))
    monkeypatch.setattr(files_module, "sync", deadly(files_module.sync))
    monkeypatch.setattr(shutil, "rmtree", deadly(shutil.rmtree))
    monkeypatch.setattr(MetricsLog, "append", deadly(MetricsLog.append))


@pytest.mark.parametrize("changes", [{}, {"save_steps": 2, "optimizer": "adamw", "logging_steps": 3}])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, monkeypatch, changes):
    changes = {"epochs": 2, "target_accuracy": 0.4, **changes}
    expected_result, expected = start(tmp_path / "whole", **changes)
    folder, deaths, moment = tmp_path / "killed", 0, 1
    # every life dies a little later than the one before, and continues what that left behind
    while True:
        with monkeypatch.context() as patch:
            killed_at(patch, moment)
            try:
                result, records = start(folder, resume=True, **changes)
                break
            except Killed:
                deaths += 1
                moment += 1
    assert deaths > 20
    assert timeless(records) == timeless(expected)
    assert timeless([result]) == timeless([expected_result])
    for name in ("best", "last"):
        weights = [tmp_path / run / "runs" / "sdpa_7" / name / "model.safetensors" for run in ("whole", "killed")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    again, records = start(folder, resume=True, **changes)
    assert (again, timeless(records)) == (result, timeless(expected))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"save_steps": 2, "optimizer": "adamw", "warmup_steps": 3},
        {"target_accuracy": 0.4, "epochs_after_target": 9},  # reached at once, but the epochs after it are cut off
    ],
)
def test_a_finished_run_goes_on_for_more_epochs_as_if_it_had_always_had_them(tmp_path, changes):
    expected_result, expected = start(tmp_path / "whole", epochs=4, **changes)
    start(tmp_path / "more", epochs=2, **changes)
    start(tmp_path / "more", epochs=3, resume=True, **changes)
    result, records = start(tmp_path / "more", epochs=4, resume=True, **changes)
    assert timeless(records) == timeless(expected)
    assert [session["step"] for session in result.pop("sessions")] == [0, 10, 15]
    expected_result.pop("sessions")
    assert timeless([result]) == timeless([expected_result])
    for name in ("best", "last"):
        weights = [tmp_path / run / "runs" / "sdpa_7" / name / "model.safetensors" for run in ("whole", "more")]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_that_ended_by_itself_has_no_use_for_more_epochs(tmp_path):
    changes = {"target_accuracy": 0.4, "epochs_after_target": 1}
    result, records = start(tmp_path, epochs=3, **changes)
    assert result["epoch"] == 2
    assert not list(tmp_path.glob("runs/*/checkpoint-*"))
    assert start(tmp_path, epochs=4, resume=True, **changes) == (result, records)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"epochs": 2},
            "with epochs=2: its runs were to have 3, and some may have had more than 2; expected",
        ),
        ({"epochs": 4, "lr_scheduler": "cosine"}, "epochs=4 instead of 3: lr_scheduler='cosine' falls until the last"),
        (
            {"epochs": 4, "warmup_steps": 0.1},
            r"warmup_steps=0\.1 is a share of all steps, so a run of 4 epochs",
        ),
    ],
)
def test_epochs_that_would_be_another_run_are_refused(tmp_path, changes, message):
    start(tmp_path, **{**changes, "epochs": 3})
    with pytest.raises(ValueError, match=message):
        start(tmp_path, resume=True, **changes)


def test_a_schedule_in_percent_cannot_get_more_epochs(tmp_path):
    accelerator, wanted = Accelerator(), ComparisonOptions(attention=["sdpa@50%>eager"])
    OutputFolder(accelerator, options(tmp_path, epochs=3), wanted)
    with pytest.raises(ValueError, match="attention='sdpa@50%>eager' changes at a share of all steps"):
        OutputFolder(accelerator, options(tmp_path, epochs=4, resume=True), wanted)


def test_a_finished_run_without_its_checkpoint_cannot_go_on(tmp_path):
    start(tmp_path, epochs=1)
    [checkpoint] = tmp_path.glob("runs/*/checkpoint-*")
    shutil.rmtree(checkpoint)
    with pytest.raises(ValueError, match="has no checkpoint, so sdpa/7 cannot have more epochs; train it anew"):
        start(tmp_path, epochs=2, resume=True)


def test_seconds_do_not_jump_where_a_run_is_resumed(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    backward = steps_module.backward

    def timed(*args):
        clock.now += 2.0
        return backward(*args)

    def compiles(*args):
        clock.now += 500.0
        monkeypatch.setattr(steps_module, "backward", timed)
        return timed(*args)

    monkeypatch.setattr(progress_module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(steps_module, "backward", timed)
    interrupted(tmp_path, monkeypatch, step=10, logging_steps=1)
    monkeypatch.setattr(steps_module, "backward", compiles)
    result, records = start(tmp_path, resume=True, logging_steps=1)
    steps = [record for record in records if record["kind"] == "step"]
    assert [record["seconds"] for record in steps] == [2.0 * record["step"] for record in steps]
    assert result["steps_per_second"] == 0.5
    assert [session["step"] for session in result["sessions"]] == [0, 10]


def interrupted(folder, monkeypatch, step, **changes):
    """Run until the checkpoint of ``step`` is written, then die."""
    save = checkpoint_module.Checkpoints.save

    def fatal(self, accelerator, progress):
        save(self, accelerator, progress)
        if progress.step >= step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.Checkpoints, "save", fatal)
        with pytest.raises(Killed):
            start(folder, **changes)
    return sorted((folder / "runs" / "sdpa_7").glob("checkpoint-*"))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "progress.json"])
def test_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, monkeypatch, file):
    _, expected = start(tmp_path / "whole")
    found = interrupted(tmp_path / "cut", monkeypatch, step=15)
    assert [path.name for path in found] == ["checkpoint-00000010", "checkpoint-00000015"]
    content = (found[1] / file).read_bytes()
    (found[1] / file).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:-1])
    with pytest.warns(UserWarning, match=f"damaged checkpoint deleted, .*checkpoint-00000015: {file}"):
        _, records = start(tmp_path / "cut", resume=True)
    assert timeless(records) == timeless(expected)


def test_no_intact_checkpoint_is_an_error(tmp_path, monkeypatch):
    for path in interrupted(tmp_path, monkeypatch, step=10):
        (path / "optimizer.bin").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint can be read \(.*optimizer.bin is missing;"):
        start(tmp_path, resume=True)


def test_random_numbers_that_do_not_come_back_are_an_error(tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch, step=5)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    with pytest.raises(ValueError, match="state of the random numbers could not be restored"):
        start(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("name", "before", "now"), [("mixed_precision", "bf16", "no"), ("layout", "FSDP", "replicated")]
)
def test_other_setting_is_an_error(tmp_path, monkeypatch, name, before, now):
    [path] = interrupted(tmp_path, monkeypatch, step=5)
    content = json.loads((path / "progress.json").read_text())
    del content["checksum"]
    (path / "progress.json").write_text(checkpoint_module.sealed({**content, name: before}))
    with pytest.raises(ValueError, match=f"{name}='{before}'; now it is '{now}'"):
        start(tmp_path, resume=True)


def test_lost_records_are_an_error(tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch, step=10)
    (tmp_path / "runs" / "sdpa_7" / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="has 0 records of sdpa/7; its checkpoint counts 2"):
        start(tmp_path, resume=True)


# ---- the log


def test_log_drops_what_comes_after_a_checkpoint(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for run, step in (("a", 1), ("b", 1), ("a", 2), ("a", 3)):
        log.append({"run": run, "step": step, "loss": 0.1 + 0.2, "bad": float("inf")})
    assert log.append({"run": "b", "bad": float("nan")}) == {"run": "b", "bad": None}
    log.rewind("b", keep=1)
    with log.path.open("a") as file:
        file.write('{"run": "a", "st')
    log.rewind("a", keep=2)
    assert [(record["run"], record["step"]) for record in read(log.path)] == [("a", 1), ("b", 1), ("a", 2)]
    assert read(log.path)[0]["loss"] == 0.1 + 0.2
    assert read(log.path)[0]["bad"] is None
    assert log.path.read_text().endswith("}\n")


def test_line_that_is_no_record_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"run": "a"}\nnonsense\n{"run": "a"}\n')
    with pytest.raises(ValueError, match="line 2: 'nonsense' is not a record"):
        read(tmp_path / "metrics.jsonl")


# ---- options and the output folder


def test_output_folder_is_refused_unless_told(tmp_path):
    start(tmp_path, epochs=1)
    with pytest.raises(ValueError, match="is not empty; add --resume or --overwrite_output_dir"):
        start(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"other options \(batch_size: 5 -> 6\)"):
        start(tmp_path, resume=True, epochs=2, batch_size=6)
    (tmp_path / "notes.txt").write_text("mine")
    _, records = start(tmp_path, overwrite_output_dir=True, epochs=2)
    assert len(records) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("resume", [True, False])
def test_resuming_what_is_not_there_is_said_in_one_line(tmp_path, capsys, resume):
    OutputFolder(Accelerator(), options(tmp_path / "new", resume=resume))
    said = f"nothing to resume in {tmp_path / 'new'}; starting anew\n"
    assert capsys.readouterr().out == (said if resume else "")
    OutputFolder(Accelerator(), options(tmp_path / "new", resume=True))
    assert capsys.readouterr().out == ""


def test_folder_that_is_no_output_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "config.yaml").write_text("epochs: 4\n")
    for flag in ("resume", "overwrite_output_dir"):
        with pytest.raises(ValueError, match="not empty and not the output of a training"):
            start(tmp_path, **{flag: True})
    with pytest.raises(ValueError, match="is a file, or in one; expected a folder"):
        start(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_file_gives_defaults_and_the_command_line_wins(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("epochs: 7\nlearning_rate: 1e-3\nresume: true\nmax_steps: null\nmax_grad_norm: .inf\n")
    [read_options] = parse(TrainingOptions, args=["--config", str(path), "--epochs", "3"])
    assert read_options == TrainingOptions(epochs=3, learning_rate=1e-3, resume=True, max_grad_norm=math.inf)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 7", r"options.yaml: unknown option 'epoch'; did you mean --epochs\?"),
        ("epochs: [", "options.yaml' is not YAML: while parsing"),
        ("- epochs", "holds a list; expected option: value pairs"),
        ("batch_size: 0", "batch_size=0; expected an integer of at least 1"),
    ],
)
def test_bad_file_is_refused(tmp_path, text, message):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse(TrainingOptions, args=["--config", str(path)])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--epoch", "3"], "unknown option '--epoch'"),
        (["--epochs", "three"], "argument --epochs: invalid int value: 'three'"),
        (["--config", "missing.yaml"], "config='missing.yaml'; expected a YAML file"),
        (["--resume", "--overwrite_output_dir"], "contradict each other"),
        (["--lr_decay", "-1"], "lr_decay=-1.0; expected a number of at least 0"),
        (["--learning_rate", "nan"], "learning_rate=nan"),
        (["--max_grad_norm", "0"], "max_grad_norm=0.0; expected a positive number or inf"),
        (["--save_steps", "0"], "save_steps=0; expected an integer of at least 1"),
        (["--epochs_after_target", "-1"], "epochs_after_target=-1; expected an integer of at least 0"),
        (["--target_accuracy", "0"], "target_accuracy=0.0; expected a positive share"),
    ],
)
def test_bad_options_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        parse(TrainingOptions, args=args)
