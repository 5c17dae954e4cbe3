"""Executors other than local processes, what the rest of a grid costs, and what becomes of runs that fail."""

import json
import os
import shutil
import sys
from dataclasses import replace

import pandas
import pytest
import torch
import yaml
from recipe import ROOT
from test_grid import TRAINING, points
from transformers import AutoModelForSequenceClassification

from hf_semfocus.cli import sweep
from hf_semfocus.data import tasks
from hf_semfocus.grid import LocalExecutor, Point, RayExecutor, Results, SlurmExecutor, read_grid, run
from hf_semfocus.grid.cost import cost, step_seconds, steps_at_most
from hf_semfocus.grid.jobs import Job
from hf_semfocus.models.semfocus_encoder.blocks import sinusoidal_positions

GRIDS = [
    path
    for path in sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
    if isinstance(yaml.safe_load(path.read_text())["grid"] if "grid:" in path.read_text() else None, list)
]


@pytest.fixture
def training(tmp_path):
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    return lambda point, folder: [sys.executable, str(script), *point.arguments, "--output_dir", str(folder)]


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_point_of_the_grids_is_valid(path, tmp_path):
    """With the first seed alone, as the others are alike."""
    content = yaml.safe_load(path.read_text())
    for block in content["grid"]:
        if isinstance(block.get("seeds"), list):
            block["seeds"] = block["seeds"][:1]
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    found = read_grid(tmp_path / "grid.yaml", sweep.configuration)
    assert found
    assert content["about"].endswith((".", "?"))
    assert content.get("joins") in (None, *(other.stem for other in GRIDS))


def test_the_full_grid_is_all_of_the_paper():
    content = yaml.safe_load((ROOT / "recipes" / "configs" / "paper_full.yaml").read_text())
    main = [block for block in content["grid"] if "activation" in block]
    names = [name for block in main for name in ([block["task"]] if isinstance(block["task"], str) else block["task"])]
    assert len(set(names)) == 8
    assert all(len(block["attention"]) == 13 for block in main)
    assert all((len(block["seeds"]), len(block["activation"])) == (10, 3) for block in main)


def measured(folder, **seconds):
    """Results of two finished runs per attention, with the seconds of a step."""
    results = Results(folder)
    for attention, each in seconds.items():
        for seed, step in ((1, 100), (2, 300)):
            point = Point(
                "pretrain", {"task": "parity", "attention": attention, "seeds": seed}, {"at": (attention, seed)}
            )
            results.add(point, {"status": "converged", "step": step, "steps_per_second": 1 / each}, [])
    return results


def test_cost_is_steps_times_measured_seconds(tmp_path):
    results = Results(measured(tmp_path, sdpa=0.5, topk=2.0).folder)  # as read from the files
    left = [Point("pretrain", {"task": task, "attention": name}, {"epochs": 10, "batch_size": 25, "train_size": 990})
            for task, name in (("parity", "sdpa"), ("parity", "banded"), ("even_pairs", "sdpa"))]  # fmt: skip
    steps = lambda point: steps_at_most(point.configuration, None)  # noqa: E731
    assert steps(left[0]) == 400
    assert steps_at_most({"epochs": 10, "batch_size": 25, "max_steps": 7}, 5000) == 7
    assert steps_at_most({"epochs": 10, "batch_size": 25}, None) is None
    found = cost(left, steps, [results])
    # full attention took 200 steps on average; of the band nothing is known but the task: the median of 0.5 and 2 s
    assert (found.seconds, found.at_most, found.unknown) == (200 * 0.5 + 400 * 1.25, 400 * 0.5 + 400 * 1.25, 1)
    assert "about 0.167 CPU hours, at most 0.194, and 1 runs whose step was not measured" in str(found)
    short = Point("pretrain", {"task": "parity", "attention": "sdpa", "max_steps": 9}, {})
    results.add(short, {"status": "finished", "step": 9}, [])  # stopped, so it tells nothing
    assert cost(left, steps, [results]).seconds == found.seconds
    assert cost(left[:1], lambda point: 9, [results]).seconds == 9 * 0.5  # but here it stops no earlier
    assert "unknown" in str(cost(left, steps, []))
    assert str(replace(found, seconds=3600 * 6090.4, unknown=0)) == "about 6,090 CPU hours, at most 0.194"
    assert step_seconds(left, results) == {left[0].name: 0.5}


def test_runs_that_failed_are_kept_apart_until_they_succeed(tmp_path, training, monkeypatch, capfd):
    grid = tmp_path / "grid.yaml"
    grid.write_text("grid: [{seeds: [1, 13], task: even_pairs, attention: sdpa}]")
    monkeypatch.setattr(sweep, "_training", training)
    args = [str(grid), "--output_dir", str(tmp_path / "out"), "--retries", "0"]
    with pytest.raises(SystemExit):
        sweep.main(args)
    [failure] = Results(tmp_path / "out").failed.values()
    assert (failure["status"], failure["last_lines"]) == (1, "seed 13 brings bad luck")
    (tmp_path / "out" / "runs.jsonl").write_text("")  # both are left, one of them failed
    capfd.readouterr()
    sweep.main([*args, "--only", "failed", "--dry_run"])
    printed = capfd.readouterr().out
    assert "2 runs: 0 done, 2 left, 1 of them failed before" in printed
    assert printed.count("13-even_pairs") == 1
    assert "\n1-even_pairs" not in printed
    script = tmp_path / "training.py"
    script.write_text(script.read_text().replace('== "13"', '== "14"'))
    assert sweep.main([*args, "--only", "failed"]) == []
    assert [line["seeds"] for line in Results(tmp_path / "out").runs] == [13]
    assert (tmp_path / "out" / "failed.jsonl").read_text() == ""


def test_results_become_a_flat_table(tmp_path, training, capfd):
    grid = tmp_path / "grid.yaml"
    grid.write_text("grid: [{seeds: 1, task: even_pairs, attention: sdpa}]")
    run(points(1, 2), tmp_path / "out", Results(tmp_path / "out"), training)
    for name, read in (("runs.parquet", pandas.read_parquet), ("runs.csv", pandas.read_csv)):
        sweep.main([str(grid), "--output_dir", str(tmp_path / "out"), "--table", str(tmp_path / name)])
        table = read(tmp_path / name)
        assert table[["seeds", "status", "reached_epoch", "reached_step"]].values.tolist() == [
            [seed, "converged", 2, 20] for seed in (1, 2)
        ]
    assert "2 runs written to" in capfd.readouterr().out
    with pytest.raises(ValueError, match=r"table='runs.txt'; expected a name that ends in .parquet or .csv"):
        sweep.SweepOptions(table="runs.txt")


@pytest.mark.parametrize("option", ["output_dir", "results_dir"])
def test_a_file_in_place_of_a_folder_is_refused(tmp_path, option):
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below"):
        with pytest.raises(ValueError, match=f"{option}='.*' is a file, or in one; expected a folder"):
            sweep.SweepOptions(**{option: str(place)})
    assert getattr(sweep.SweepOptions(**{option: str(tmp_path / "new")}), option)


def test_one_thing_is_done_instead_of_training():
    with pytest.raises(
        ValueError, match=r"test_lengths=\[4\], quantities=True; expected one of them at most, as each is"
    ):
        sweep.SweepOptions(test_lengths=[4], quantities=True)


def test_a_table_in_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"table='.*'; expected a file in a folder that exists"):
        sweep.SweepOptions(table=str(tmp_path / "missing" / "runs.csv"))


def test_a_folder_without_times_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"times='.*': no times.jsonl in it; expected the results_dir of a sweep"):
        sweep.SweepOptions(times=[str(tmp_path)])
    measured(tmp_path, sdpa=0.5)
    assert sweep.SweepOptions(times=[str(tmp_path)]).times == [str(tmp_path)]


@pytest.mark.parametrize(
    ("executor", "option"),
    [
        *(("local", option) for option in ({"address": "a:6379"}, {"gpus": 1}, {"partition": "long"}, {"minutes": 9})),
        *(("ray", option) for option in ({"partition": "long"}, {"minutes": 9})),
        ("slurm", {"address": "host:6379"}),
    ],
)
def test_options_of_other_executors_are_refused(executor, option):
    with pytest.raises(ValueError, match=f"has no effect with executor='{executor}'"):
        sweep.SweepOptions(executor=executor, **option)


def test_an_address_that_is_none_is_refused():
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match="address='nonsense': "):
        RayExecutor(address="nonsense").run([])


def test_numbers_of_clusters_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"gpus=0.5; expected a whole number"):
        sweep.SweepOptions(executor="slurm", gpus=0.5)
    with pytest.raises(ValueError, match=r"minutes=0"):
        sweep.SweepOptions(executor="slurm", minutes=0)
    with pytest.raises(ValueError, match="gpus=-1"):
        sweep.SweepOptions(executor="ray", gpus=-1.0)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"hf_semfocus\[sweep\]"):
        RayExecutor().run([])


def test_without_slurm_the_error_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"executor='slurm': .*; expected a machine that has sbatch"):
        SlurmExecutor(logs=tmp_path / "logs").run([])
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"hf_semfocus\[sweep\]"):
        SlurmExecutor(logs=tmp_path / "logs").run([])


def test_jobs_go_to_slurm_with_their_limits(tmp_path, training, monkeypatch):
    """An ``sbatch`` that writes down what it is given, and a queue that knows no job."""
    for name, does in (
        ("sbatch", f'cp "$1" {tmp_path}/script; echo "Submitted batch job 7"'),
        ("sacct", ""),
        ("srun", ""),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    executor = SlurmExecutor(workers=None, logs=tmp_path / "logs", minutes=90, partition="long", gpus=2)
    [point] = points(1)
    job = Job(point.name, training(point, tmp_path), tmp_path / "log", tmp_path / "out.txt", lambda: None)
    with executor.connected() as workers:
        assert (workers, executor.start(job).job_id) == (16, "7")
    script = (tmp_path / "script").read_text()
    for line in ("--time=90", "--partition=long", "--gpus-per-node=2", "--cpus-per-task=1", "--job-name=semfocus"):
        assert f"#SBATCH {line}\n" in script


@pytest.mark.slow
def test_submitit_runs_each_once_tries_again_and_tells_what_failed(tmp_path, training):
    """In processes of this machine, which submitit offers as a trial."""
    wanted = points(1, 13, 2)
    executor = SlurmExecutor(workers=2, logs=tmp_path / "logs", cluster="local")
    [failure] = run(wanted, tmp_path / "slurm", Results(tmp_path / "slurm"), training, executor)
    assert (failure.name, failure.status, failure.last_lines) == (wanted[1].name, 1, "seed 13 brings bad luck")
    assert [len((tmp_path / "slurm" / p.name / "starts").read_text()) for p in wanted] == [1, 2, 1]
    run(wanted[::2], tmp_path / "local", Results(tmp_path / "local"), training, LocalExecutor(workers=2))
    assert lines(tmp_path / "slurm") == lines(tmp_path / "local")


def lines(folder):
    return [sorted((folder / name).read_text().splitlines()) for name in ("runs.jsonl", "evaluations.jsonl")]


@pytest.mark.slow
def test_ray_runs_each_once_tries_again_and_tells_what_failed(tmp_path, training):
    pytest.importorskip("ray")
    wanted = points(1, 13, 2)
    [failure] = run(wanted, tmp_path / "ray", Results(tmp_path / "ray"), training, RayExecutor(workers=2))
    assert (failure.name, failure.status, failure.last_lines) == (wanted[1].name, 1, "seed 13 brings bad luck")
    assert [len((tmp_path / "ray" / p.name / "starts").read_text()) for p in wanted] == [1, 2, 1]
    run(wanted[::2], tmp_path / "local", Results(tmp_path / "local"), training, LocalExecutor(workers=2))
    assert lines(tmp_path / "ray") == lines(tmp_path / "local")
    with pytest.raises(ValueError, match=r"gpus=1000.0; the cluster has"):
        run(points(3), tmp_path / "more", Results(tmp_path / "more"), training, RayExecutor(workers=1, gpus=1000.0))


@pytest.mark.slow
def test_the_smoke_grid_gives_the_same_on_processes_and_on_ray(tmp_path):
    pytest.importorskip("ray")
    for executor in ("local", "ray"):
        folder = str(tmp_path / executor)
        args = [str(ROOT / "recipes/configs/smoke.yaml"), "--output_dir", folder, "--workers", "2"]
        assert sweep.main([*args, "--executor", executor]) == []
    assert lines(tmp_path / "ray") == lines(tmp_path / "local")
    assert all(json.loads(line)["eval_loss"] for line in lines(tmp_path / "ray")[0])


def test_models_of_finished_runs_are_tested_at_other_lengths(tmp_path, capfd):
    grid = tmp_path / "small.yaml"
    grid.write_text("""
        defaults: {epochs: 30, hidden_size: 8, intermediate_size: 8, num_layers: 1, train_size: 200, eval_size: 50}
        grid: [{task: "missing_duplicates:max_length=4", seeds: 3, attention: "topk_sparse:k=2", learning_rate: 1}]
    """)
    args = [str(grid), "--output_dir", str(tmp_path / "out")]
    sweep.main(args)
    sweep.main([*args, "--test_lengths", "4", "10"])
    lines = Results(tmp_path / "out").lengths
    assert [line["length"] for line in lines] == [4, 10]
    [folder] = (tmp_path / "out").glob("missing*/runs/*/best")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config._attn_implementation == "topk_sparse:k=2"
    for line in lines:
        rows = tasks.load(f"missing_duplicates:max_length={line['length']}", "test", seed=3)
        model.encoder.positions = sinusoidal_positions(line["length"], 8)
        with torch.no_grad():
            logits = model(torch.tensor(rows["input_ids"][:])).logits
        expected = (logits.argmax(-1) == torch.tensor(rows["labels"][:])).double().mean().item()
        assert line["eval_accuracy"] == pytest.approx(expected, abs=1e-3)
    assert lines[0]["eval_accuracy"] > 0.6 > lines[1]["eval_accuracy"]
    sweep.main([*args, "--test_lengths", "10", "6"])  # one is known
    assert [line["length"] for line in Results(tmp_path / "out").lengths] == [4, 10, 6]
    sweep.main([*args, "--quantities"])
    sweep.main([*args, "--quantities"])  # known
    [line] = Results(tmp_path / "out").quantities
    assert (line["rows"], line["k"], line["receptive_field"] < 1) == (200, 2, True)
    printed = capfd.readouterr().out
    assert "1 models measured; 0 are not in" in printed
    assert "0 models measured; 0 are not in" in printed
    text = tmp_path / "text.yaml"
    text.write_text("grid: [{task: clm, seeds: 3, attention: sdpa, max_steps: 1}]")
    with pytest.raises(ValueError, match=r"clm.* is not a pretraining on a synthetic task"):
        list(sweep._models(read_grid(text, sweep.configuration), tmp_path, "measured"))
    shutil.rmtree(folder)
    sweep.main([*args, "--test_lengths", "8"])
    assert "0 models tested; 1 are not in" in capfd.readouterr().out
