"""The pretraining recipe end to end: on its own, on two processes, and misused; ``test_faults`` kills it."""

import importlib.util
import re
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import PATIENCE
from recipe import ROOT, assert_close, command, pretrain, timeless
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForSequenceClassification

from hf_semfocus.data import tasks
from hf_semfocus.reports import plots, report
from hf_semfocus.training.log import read

YAML = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
CONFIGS = [path for path in YAML if "grid" not in yaml.safe_load(path.read_text())]
DATA = ["--train_size", "43", "--eval_size", "31", "--batch_size", "5", "--cpu_threads", "1", "--target_accuracy", "2"]
TINY = [*DATA, "--hidden_size", "8", "--intermediate_size", "8", "--num_layers", "1"]
TWO = ["--attention", "sdpa", "topk_sparse:k=3"]

TWO_PROCESSES = ["--config_file", str(ROOT / "recipes" / "accelerate" / "multi_cpu.yaml"), "--main_process_port", "0"]


@pytest.mark.parametrize("model", ["paper", "gpt2", "bert", "llama"])
def test_every_model_trains_and_reports(tmp_path, model, capsys):
    args = [*TINY, *TWO, "--model", model, "--epochs", "2", "--seeds", "3", "4", "--output_dir", str(tmp_path)]
    results = pretrain.main(args)
    assert [(r["attention"], r["seed"], r["epoch"]) for r in results] == [
        (attention, seed, 2) for seed in (3, 4) for attention in ("sdpa", "topk_sparse:k=3")
    ]
    names = {".lock", "config.yaml", "curves.png", "metrics.jsonl", "report.md", "runs"}
    assert {path.name for path in tmp_path.iterdir()} == names
    text = (tmp_path / "report.md").read_text()
    printed = capsys.readouterr().out
    for line in report.table(results, 2).splitlines():
        assert line in text
        assert line in printed
    assert "Median [quartiles] of 2 seeds." in text
    assert re.search(r"Attention was computed by these backends: .*topk_sparse by \w+", text)
    records = read(tmp_path / "metrics.jsonl")
    assert len(records) == 8
    assert all(0 < record["eval_loss"] < 5 and 0 <= record["eval_accuracy"] <= 1 for record in records)
    best = AutoModelForSequenceClassification.from_pretrained(tmp_path / "runs" / "topk_sparse_k=3_4" / "best")
    assert best.config._attn_implementation == "topk_sparse:k=3"
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["learning_rate"], config["lr_decay"], config["seeds"]) == (0.1, 0.9995, [3, 4])


@pytest.mark.usefixtures("without_curves")
def test_runs_share_data_and_initial_weights_and_do_not_touch_each_other(tmp_path):
    args = [*TINY, "--epochs", "2", "--seeds", "3", "--dropout", "0.2", "--logging_steps", "1"]
    for name, attention in (
        ("ab", ["sdpa", "topk_sparse:k=3", "eager"]),
        ("ba", ["eager", "topk_sparse:k=3", "sdpa"]),
    ):
        pretrain.main([*args, "--attention", *attention, "--output_dir", str(tmp_path / name)])
    key = lambda record: (record["run"], record["step"], record["kind"])  # noqa: E731
    first, second = (sorted(timeless(tmp_path / name), key=key) for name in ("ab", "ba"))
    assert first == second


@pytest.mark.usefixtures("without_curves")
def test_first_step_of_equivalent_attentions_is_the_same(tmp_path):
    args = [*TINY, "--max_steps", "1", "--dropout", "0", "--logging_steps", "1", "--output_dir", str(tmp_path)]
    attention = ["sdpa", "eager", "topk_sparse:k=40", "banded_sparse:window=40"]
    pretrain.main([*args, "--attention", *attention])
    losses = [record["train_loss"] for record in timeless(tmp_path) if record["kind"] == "step"]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


@pytest.mark.usefixtures("without_curves")
def test_global_tokens_of_the_attention_are_learned_by_the_encoder(tmp_path):
    name = "banded_sparse:window=3,num_global_tokens=2,global_position=last"
    pretrain.main([*TINY, "--epochs", "1", "--attention", name, "sdpa", "--output_dir", str(tmp_path)])
    folders = sorted(path for path in (tmp_path / "runs").iterdir())
    models = [AutoModelForSequenceClassification.from_pretrained(path / "last") for path in folders]
    assert [model.config.num_global_tokens for model in models] == [2, 0]


@pytest.mark.usefixtures("without_curves")
def test_checkpoint_as_model(tmp_path):
    args = [*TINY, "--epochs", "1"]
    pretrain.main([*args, "--attention", "sdpa", "--output_dir", str(tmp_path / "first")])
    [last] = (tmp_path / "first").glob("runs/*/last")
    args = [*DATA, "--epochs", "1", "--model", str(last), "--attention", "topk_sparse:k=3"]
    [result] = pretrain.main([*args, "--learning_rate", "0", "--output_dir", str(tmp_path / "second")])
    again = AutoModelForSequenceClassification.from_pretrained(next((tmp_path / "second").glob("runs/*/last")))
    before = AutoModelForSequenceClassification.from_pretrained(last).state_dict()
    assert all(torch.equal(before[name], weight) for name, weight in again.state_dict().items())
    assert result["attention"] == "topk_sparse:k=3"
    with pytest.raises(ValueError, match="num_layers=2 has no effect on a checkpoint"):
        pretrain.main([*args, "--num_layers", "2", "--output_dir", str(tmp_path / "third")])
    with pytest.raises(ValueError, match="3 token ids; the task needs 11"):
        pretrain.main([*args, "--task", "modular_arithmetic_brackets", "--output_dir", str(tmp_path / "third")])


def test_run_that_diverges_leaves_the_others_alone(tmp_path):
    def breaks(module, query, key, value, mask, **kwargs):
        return (query / 0 * (0 if module.training else 1)).transpose(1, 2), None

    AttentionInterface.register("breaks", breaks)
    AttentionMaskInterface.register("breaks", lambda *args, **kwargs: None)
    try:
        args = [*TINY, "--epochs", "1", "--attention", "breaks", "sdpa", "--output_dir", str(tmp_path)]
        results = pretrain.main(args)
    finally:
        AttentionInterface._global_mapping.pop("breaks")
        AttentionMaskInterface._global_mapping.pop("breaks")
    assert [result["status"] for result in results] == ["diverged", "finished"]
    assert [record["kind"] for record in read(tmp_path / "metrics.jsonl")] == ["diverged", "epoch"]
    assert "breaks/153476998 diverged" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "curves.png").exists()


def test_two_processes_equal_one(tmp_path):
    # 41 = 8 * 5 + 1 and 31 = 3 * 10 + 1: shares of 3 and 2, and in the last batches one that is empty
    args = [*TINY, *TWO, "--epochs", "3", "--dropout", "0", "--seeds", "3", "--eval_batch_size", "10"]
    args += ["--train_size", "41", "--logging_steps", "2"]
    pretrain.main([*args, "--output_dir", str(tmp_path / "one")])
    two = command(*args, "--output_dir", tmp_path / "two", launch=TWO_PROCESSES)
    done = subprocess.run(**two, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "Ran on 2 x cpu" in (tmp_path / "two" / "report.md").read_text()
    one, two = timeless(tmp_path / "one"), timeless(tmp_path / "two")
    assert len(one) == len(two) == 2 * (3 + 27 // 2)
    assert_close(two, one)


@pytest.mark.usefixtures("without_curves")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_runs(tmp_path, path):
    options, _, comparison, training, _ = pretrain.parse(*pretrain.OPTIONS, args=["--config", str(path)])
    task = tasks.get(options.task)
    assert training.epochs == task.epochs
    assert set(yaml.safe_load(path.read_text())) <= {"task", "attention", "seeds", "epochs", "eval_batch_size"}
    small = {"train_size": 6, "eval_size": 4, "batch_size": 3, "seeds": 3, "max_steps": 1, "cpu_threads": 1}
    small |= {"hidden_size": 4, "intermediate_size": 4, "num_layers": 1, "output_dir": tmp_path}
    arguments = [part for name, value in small.items() for part in (f"--{name}", str(value))]
    results = pretrain.main(["--config", str(path), *arguments])
    assert [result["attention"] for result in results] == comparison.attention


def test_configurations_are_named_for_their_tasks():
    assert len(CONFIGS) == 8  # those of the paper
    assert [yaml.safe_load(path.read_text())["task"] for path in CONFIGS] == [path.stem for path in CONFIGS]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--task", "chess"], "unknown task 'chess'"),
        (
            ["--model", "gpt5"],
            r"model='gpt5' \(did you mean 'gpt2'\?\); expected one of paper, gpt2, bert, llama, a folder",
        ),
        (["--attention", "topk"], "topk_sparse"),
        (["--attention", "sdpa", "topk_sparse:m=3"], "topk_sparse has no parameter 'm'"),
        (["--attention", "sdpa", "sdpa"], r"attention=\['sdpa', 'sdpa'\]; expected every one once"),
        (["--seeds", "1", "1"], r"seeds=\[1, 1\]; expected every one once"),
        (["--seeds", "-1"], "seeds=-1; expected an integer of at least 0"),
        (["--num_heads", "0"], "num_attention_heads=0; expected an integer of at least 1"),
        (["--dropout", "1.5"], "dropout=1.5"),
        (["--activation", "silu"], "hidden_act='silu'; expected one of relu, gelu, mish"),
        (["--train_size", "0"], "train_size=0; expected an integer of at least 1"),
        (["--report_to", "wandb"], "report_to='wandb' is not installed"),
        (["--dataset", "a.txt"], "dataset='a.txt' has no effect on task='even_pairs', which makes its own data"),
        (["--hub_model_id", "a/b"], "hub_model_id='a/b' is for publishing; expected push_to_hub with it"),
        (["--hub_model_id", "a b/c", "--push_to_hub"], "hub_model_id='a b/c'; expected owner/name: "),
    ],
)
def test_mistakes_end_it_before_anything_is_written(tmp_path, args, message):
    if args == ["--report_to", "wandb"] and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    folder = tmp_path / "output"
    with pytest.raises(ValueError, match=message):
        pretrain.main([*TINY, "--epochs", "1", "--output_dir", str(folder), *args])
    assert not folder.exists()


def test_tensorboard_gets_every_epoch(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    args = [*TINY, "--epochs", "3", "--attention", "sdpa", "--report_to", "tensorboard"]
    pretrain.main([*args, "--output_dir", str(tmp_path)])
    [events] = tmp_path.glob("trackers/events*")
    log = accumulator.EventAccumulator(str(events)).Reload()
    seen = {event.step: event.value for event in log.Scalars("sdpa/153476998/eval_loss")}
    expected = {record["step"]: record["eval_loss"] for record in read(tmp_path / "metrics.jsonl")}
    assert seen == pytest.approx(expected)


def test_kernels_are_compiled_before_a_run_counts_its_seconds(tmp_path, monkeypatch):
    calls = []

    def train(*args, **options):
        calls.append("train")
        raise KeyboardInterrupt

    module = sys.modules["hf_semfocus.experiments.compare"]
    monkeypatch.setattr(module, "load_kernels", lambda: calls.append("compile"))
    monkeypatch.setattr(module, "train", train)
    for attention, expected in (("sdpa", ["train"]), ("sdpa@2>topk_sparse:k=3", ["compile", "train"])):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            pretrain.main([*TINY, "--attention", attention, "--output_dir", str(tmp_path / attention)])
        assert calls == expected


# ---- report and curves


def result(attention, seed, epoch=None, accuracy=0.5):
    reached = None if epoch is None else {"epoch": epoch, "step": 10 * epoch, "seconds": 1.5 * epoch}
    held = {"train_loss": 0.25, "train_accuracy": accuracy, "eval_loss": 0.5, "eval_accuracy": accuracy}
    return {"attention": attention, "seed": seed, "reached": reached, "steps_per_second": 33.0, **held}


def test_table_shows_median_and_quartiles():
    results = [result("a", seed, epoch) for seed, epoch in enumerate((4, 8, 6, 10, None))]
    results += [result("b", seed, epoch) for seed, epoch in enumerate((None, None, None, 2, 4))]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.table(results, 0.95).splitlines()]
    assert cells[0][:4] == ["attention", "epochs to 95%", "steps", "seconds"]
    assert cells[2][:4] == ["a", "8 [6, 10]", "80 [60, 100]", "12.0 [9.0, 15.0]"]
    assert cells[3][:2] == ["b", "never [4, never]"]
    one = report.table([result("a", 0, 7), {**result("b", 0), "eval_loss": None}], 0.95).splitlines()
    assert [cell.strip() for cell in one[2].split("|")[1:5]] == ["a", "7", "70", "10.5"]
    assert [cell.strip() for cell in one[3].split("|")[7:9]] == ["-", "0.5000"]


def test_band_carries_the_last_value_of_runs_that_ended():
    series = {1: [(1, 0.1), (2, 0.2)], 2: [(1, 0.3), (2, 0.5), (3, 0.9)], 3: [(1, 0.2), (2, 0.3), (3, 0.4)]}
    records = [{"seed": seed, "x": x, "y": y} for seed, points in series.items() for x, y in points]
    grid, low, middle, high = plots.band(records, "x", "y")
    assert grid.tolist() == [1, 2, 3]
    assert middle.tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert low.tolist() == pytest.approx([0.15, 0.25, 0.3])
    assert high.tolist() == pytest.approx([0.25, 0.4, 0.65])


def test_band_starts_where_every_seed_has_a_value():
    records = [{"seed": s, "x": x, "y": x} for s, places in ((1, (2.5, 4.0)), (2, (1.0, 3.0))) for x in places]
    grid, _, middle, _ = plots.band(records, "x", "y")
    assert grid.tolist() == [2.5, 3.0, 4.0]
    assert middle.tolist() == [1.75, 2.75, 3.5]


def test_curves_without_matplotlib_are_skipped_with_a_word(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    pretrain.main([*TINY, "--epochs", "1", "--attention", "sdpa", "--output_dir", str(tmp_path)])
    assert "no curves.png: plots need matplotlib; pip install 'hf_semfocus[plots]'" in capsys.readouterr().out
    assert "![" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "curves.png").exists()


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no records of the kinds epoch, eval"):
        plots.curves([{"kind": "diverged"}], tmp_path / "curves.png")


def test_report_of_runs_that_all_diverged(tmp_path):
    diverged = {"run": "a/0", "attention": "a", "seed": 0, "status": "diverged", "reached": None}
    printed = report.write_report(tmp_path, "Title", [diverged], [{"kind": "diverged"}], {"target_accuracy": 0.95})
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Title\n")
    assert "- a/0 diverged" in text
    assert "One seed." in text
    assert "no curves.png: no run was evaluated" in printed
    assert [cell.strip() for cell in printed.splitlines()[2].split("|")[1:5]] == ["a", "never", "never", "never"]
