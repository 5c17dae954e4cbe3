"""Grids of runs: what a point is, that a finished one is never repeated, and that no death loses or doubles any."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE, wait_until
from recipe import ROOT

from hf_semfocus.cli import sweep
from hf_semfocus.grid import LocalExecutor, Point, Results, read_about, read_grid, run

# stands for a training: counts its starts, logs two evaluations, and ends as its option says
TRAINING = """
import json, os, sys, time
from pathlib import Path
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = Path(options["--output_dir"])
folder.mkdir(parents=True, exist_ok=True)
with (folder / "starts").open("a") as file:
    file.write("x")
if options["--seeds"] == "13":
    sys.exit("seed 13 brings bad luck")
time.sleep(float(os.environ.get("TRAINING_SECONDS", 0)))
records = [
    {"kind": kind, "run": "a/1", "epoch": epoch, "step": 10 * epoch, "seconds": 5.0, "train_loss": 1 / 3, "eval_accuracy": 0.5}
    for kind, epoch in (("epoch", 1), ("step", 1), ("epoch", 2))
]
(folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\\n" for record in records))
(folder / "runs" / "a_1").mkdir(parents=True, exist_ok=True)
result = {"status": "converged", "reached": {"epoch": 2, "step": 20, "seconds": 5.0}, "steps_per_second": 4.0}
(folder / "runs" / "a_1" / "result.json").write_text(json.dumps(result))
"""  # noqa: E501


@pytest.fixture
def training(tmp_path):
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    return lambda point, folder: [sys.executable, str(script), *point.arguments, "--output_dir", str(folder)]


def points(*seeds):
    return [Point("pretrain", {"seeds": seed}, {"seeds": seed}) for seed in seeds]


def starts(folder, point):
    return len((folder / point.name / "starts").read_text())


GRID = """
command: pretrain
defaults: {epochs: 3}
grid:
  - task: [even_pairs, parity]
    seeds: [1, 2]
    attention: [sdpa, "topk_sparse:k=5"]
  - {task: even_pairs, seeds: 2, attention: sdpa}
"""


def test_a_grid_is_the_product_of_its_lists_in_their_order(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    found = read_grid(path, lambda command, arguments: {"all": arguments})
    assert [tuple(point.options.values()) for point in found] == [
        (3, task, seed, attention)
        for task in ("even_pairs", "parity")
        for seed in (1, 2)
        for attention in ("sdpa", "topk_sparse:k=5")
    ]
    assert found[1].arguments == [
        "--epochs", "3", "--task", "even_pairs", "--seeds", "1", "--attention", "topk_sparse:k=5",
    ]  # fmt: skip
    assert len({point.name for point in found}) == len(found) == 8
    assert found[1].name.startswith("even_pairs-1-topk_sparse_k=5-")


def test_the_name_of_a_point_follows_all_that_is_in_force():
    same = [Point("pretrain", {"seeds": 1}, {"seeds": 1, "epochs": 3}) for _ in range(2)]
    assert same[0].name == same[1].name
    assert Point("pretrain", {"seeds": 1}, {"seeds": 1, "epochs": 4}).name != same[0].name
    assert Point("finetune", {"seeds": 1}, {"seeds": 1, "epochs": 3}).name != same[0].name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "holds a list; expected about, joins, together, command, defaults, grid"),
        ("grid: 3", "grid=3; expected about"),
        ("grid: [3]", "block 1: 3"),
        ("grid: []\nextra: 1", "is not a grid, as it has extra; expected about"),
        ("grid: [{task: x}]", "block 1, {'task': 'x'}: no such task"),
        ("grid: [{task: x, output_dir: y}]", "block 1: output_dir is set by the sweep"),
        ("{grid: [{task: x}], defaults: {resume: true}}", "block 1: resume is set by the sweep"),
        ("{", "cannot be read"),
    ],
)
def test_a_file_that_is_no_grid_is_refused_with_the_place(tmp_path, text, said):
    path = tmp_path / "grid.yaml"
    path.write_text(text)

    def configure(command, arguments):
        raise ValueError("no such task")

    with pytest.raises(ValueError, match=r"grid\.yaml") as error:
        read_grid(path, configure)
    assert said in str(error.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_point_runs_once_and_leaves_its_lines(tmp_path, training, workers):
    wanted = points(1, 2, 3)
    folder, kept = tmp_path / "out", tmp_path / "kept"
    assert run(wanted, folder, Results(kept), training, LocalExecutor(workers=workers)) == []
    assert run(wanted, folder, Results(kept), training, LocalExecutor(workers=workers)) == []
    assert [starts(folder, point) for point in wanted] == [1, 1, 1]
    runs = [json.loads(line) for line in (kept / "runs.jsonl").read_text().splitlines()]
    assert sorted(line["seeds"] for line in runs) == [1, 2, 3]
    # steps are results; times on a machine that does other things are not
    assert runs[0]["reached"] == {"epoch": 2, "step": 20}
    assert "steps_per_second" not in runs[0]
    evaluations = [json.loads(line) for line in (kept / "evaluations.jsonl").read_text().splitlines()]
    assert len(evaluations) == 6
    assert evaluations[0] == {
        "point": runs[0]["point"], "epoch": 1, "step": 10, "train_loss": 0.333333, "eval_accuracy": 0.5,
    }  # fmt: skip


def test_a_point_whose_line_is_there_is_finished_without_its_folder(tmp_path, training):
    wanted = points(1, 2)
    run(wanted[:1], tmp_path / "here", Results(tmp_path / "kept"), training)
    run(wanted, tmp_path / "elsewhere", Results(tmp_path / "kept"), training)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir() if path.is_dir()] == [wanted[1].name]


def test_evaluations_without_their_run_are_taken_back(tmp_path, training):
    """They were written by a process that died before the line of the run."""
    kept = tmp_path / "kept"
    run(points(1), tmp_path / "out", Results(kept), training)
    whole = (kept / "evaluations.jsonl").read_text()
    (kept / "evaluations.jsonl").write_text(whole + whole.replace(points(1)[0].name, points(2)[0].name))
    run(points(1, 2), tmp_path / "out", Results(kept), training)
    assert len((kept / "evaluations.jsonl").read_text().splitlines()) == 4


def test_damaged_lines_are_named(tmp_path):
    (tmp_path / "runs.jsonl").write_text('{"point": "a"}\nnonsense\n')
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2: 'nonsense'"):
        Results(tmp_path)


def test_a_point_that_fails_is_tried_again_after_the_others_and_then_told(tmp_path, training):
    wanted = points(13, 1)
    [failure] = run(wanted, tmp_path / "out", Results(tmp_path / "kept"), training, LocalExecutor(retries=2))
    assert failure.name == wanted[0].name
    assert failure.status == 1
    assert failure.last_lines == "seed 13 brings bad luck"
    assert starts(tmp_path / "out", wanted[0]) == 3
    assert wanted[1] in Results(tmp_path / "kept")


def test_grids_with_the_same_results_keep_each_others_lines(tmp_path, training):
    one, two = points(1, 2)
    kept = [Results(tmp_path / "kept") for _ in range(3)]
    for results, point in zip(kept, (one, two, one), strict=True):  # none has seen what the others wrote
        assert run([point], tmp_path / f"out-{point.name}", results, training) == []
    assert [run["point"] for run in Results(tmp_path / "kept").runs] == [one.name, two.name]
    assert len(Results(tmp_path / "kept").evaluations) == 4
    assert starts(tmp_path / f"out-{one.name}", one) == 1


@pytest.mark.parametrize("shared", ["out", "kept"])
def test_two_grids_in_one_folder_are_refused(tmp_path, training, shared):
    from hf_semfocus.files import locked

    (tmp_path / shared).mkdir()
    lock = tmp_path / shared / ".lock"
    # as hf_semfocus.files.locked does, without the seconds that importing it takes
    code = f"import fcntl; h = open({str(lock)!r}, 'a'); fcntl.lockf(h, fcntl.LOCK_EX); print('held'); input()"
    other = subprocess.Popen([sys.executable, "-uc", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="in use by another process"):
        run(points(1), tmp_path / "out", Results(tmp_path / "kept"), training)
    other.communicate("\n")
    locked(lock).close()


DRIVER = """
import sys
from pathlib import Path
from hf_semfocus.grid import LocalExecutor, Point, RayExecutor, Results, SlurmExecutor, run
folder = Path(sys.argv[1])
wanted = [Point("pretrain", {"seeds": seed}, {"seeds": seed}) for seed in (1, 2)]
command = lambda point, out: [sys.executable, str(folder / "training.py"), *point.arguments, "--output_dir", str(out)]
run(wanted, folder / "out", Results(folder / "kept"), command, EXECUTOR)
"""
SLURM = 'SlurmExecutor(workers=2, logs=folder / "logs", cluster="local")'


@pytest.mark.parametrize(
    ("executor", "number"),
    [
        ("LocalExecutor(workers=2)", signal.SIGTERM),
        ("LocalExecutor(workers=2)", signal.SIGKILL),
        pytest.param("RayExecutor(workers=2)", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("RayExecutor(workers=2)", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(SLURM, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_its_end_ends_its_processes_and_the_next_start_goes_on(tmp_path, training, number, executor):
    done, *wanted = points(7, 1, 2)
    run([done], tmp_path / "out", Results(tmp_path / "kept"), training)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.replace("EXECUTOR", executor), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRAINING_SECONDS": "100"},
    )
    marks = [tmp_path / "out" / point.name / "starts" for point in wanted]
    wait_until(lambda: all(mark.exists() for mark in marks))
    driver.send_signal(number)
    assert driver.wait(PATIENCE) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    if sys.platform == "linux":
        wait_until(lambda: not any(str(tmp_path / "training.py") in line for line in command_lines()))
    assert all(point not in Results(tmp_path / "kept") for point in wanted)
    assert run([done, *wanted], tmp_path / "out", Results(tmp_path / "kept"), training, LocalExecutor(workers=2)) == []
    assert [starts(tmp_path / "out", point) for point in (done, *wanted)] == [1, 2, 2]


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue


def test_the_shipped_grid_is_the_one_of_the_paper_and_its_controls():
    found = read_grid(ROOT / "recipes" / "configs" / "paper_cpu.yaml", sweep.configuration)
    assert len(found) == len({point.name for point in found}) == 7 * (10 + 3 * 5)
    first = found[0].configuration
    # the paper's hyperparameters stand in the configuration, so that no default can change them unseen
    assert (first["learning_rate"], first["lr_decay"], first["batch_size"], first["epochs"]) == (0.1, 0.9995, 25, 100)


def test_names_of_points_stay_as_they_were_when_their_results_were_written():
    """A changed name would let every finished run of the shipped results begin anew."""
    folder = ROOT / "recipes" / "results" / "paper_cpu"
    names = {point.name for point in read_grid(ROOT / "recipes/configs/paper_cpu.yaml", sweep.configuration)}
    assert {
        "even_pairs-153476998-topk_sparse_k=5-fb3b01d08f",
        "even_pairs-153476998-random_sparse_k=5-f201de048e",
    } <= names
    assert {run["point"] for run in Results(folder).runs} <= names


def test_sweep_trains_the_points_and_tells_what_is_left(tmp_path, capfd):
    grid = tmp_path / "small.yaml"
    grid.write_text("""
        defaults: {epochs: 1, train_size: 20, eval_size: 10, hidden_size: 8, intermediate_size: 8, num_layers: 1}
        grid: [{task: even_pairs, seeds: 3, attention: "topk_sparse:k=3"}]
    """)
    args = [str(grid), "--output_dir", str(tmp_path / "out"), "--results_dir", str(tmp_path / "kept")]
    sweep.main([*args, "--dry_run"])
    assert "1 runs: 0 done, 1 left" in capfd.readouterr().out
    assert sweep.main([*args, "--workers", "2"]) == []
    assert f"results: {tmp_path / 'kept' / 'runs.jsonl'}" in capfd.readouterr().out
    runs = [json.loads(line) for line in (tmp_path / "kept" / "runs.jsonl").read_text().splitlines()]
    assert [(run["attention"], run["step"], run["status"]) for run in runs] == [("topk_sparse:k=3", 1, "finished")]
    sweep.main(args)
    assert "1 runs: 1 done, 0 left" in capfd.readouterr().out


def test_a_run_that_is_finished_in_another_grid_is_not_run_again(tmp_path, training, monkeypatch, capfd):
    """The same options in force are the same run, whatever is written in the grid and whatever its point is called."""
    one, two, kept = tmp_path / "one.yaml", tmp_path / "two.yaml", tmp_path / "kept"
    one.write_text("grid: [{task: even_pairs, seeds: [1, 2], attention: sdpa}]")
    two.write_text("defaults: {task: even_pairs}\ngrid: [{seeds: [2, 3], attention: sdpa, learning_rate: 0.1}]")
    monkeypatch.setattr(sweep, "_training", training)
    sweep.main([str(one), "--output_dir", str(kept)])
    args = [str(two), "--output_dir", str(tmp_path / "out"), "--finished_in", str(kept)]
    capfd.readouterr()
    sweep.main([*args, "--dry_run"])
    assert "2 runs: 1 done, 1 left" in capfd.readouterr().out
    sweep.main(args)
    assert [run["seeds"] for run in Results(tmp_path / "out").runs] == [3]
    sweep.main([*args, "--dry_run"])
    assert "2 runs: 2 done, 0 left" in capfd.readouterr().out
    two.write_text("grid: [{task: even_pairs, seeds: 3, attention: sdpa, learning_rate: 0.1}]")  # another name
    [point] = read_grid(two, sweep.configuration)
    again = Results(tmp_path / "out")
    assert point in again
    assert point.name != again.runs[0]["point"]
    again.add_lengths(point, [{"length": 9, "eval_accuracy": 0.5}])
    assert [line["length"] for line in Results(tmp_path / "out").lengths] == [9]
    block = "task: even_pairs, seeds: 3, attention: sdpa"
    two.write_text(f"grid: [{{{block}}}, {{{block}, batch_size: 25}}]")
    assert len(read_grid(two, sweep.configuration)) == 1
    with pytest.raises(
        ValueError, match=r"finished_in='.*': no runs.jsonl in it; expected the results_dir of a sweep"
    ):
        sweep.SweepOptions(finished_in=[str(tmp_path)])


def test_what_a_grid_says_of_itself(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("about: Why?\njoins: other\ntogether: true\ngrid: []")
    assert read_about(path) == ("Why?", "other", True)
    path.write_text("together: 3\ngrid: []")
    with pytest.raises(ValueError, match="together=3; expected true or false"):
        read_about(path)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("{task: even_pairs, seeds: 1}", "expected one of each"),
        ("{task: even_pears, seeds: 1, attention: sdpa}", "even_pears"),
        ("{task: even_pairs, seeds: 1, attention: topk_sprase}", "topk_sprase"),
        ("{task: even_pairs, seeds: 1, attention: sdpa, epocs: 3}", "epocs"),
    ],
)
def test_sweep_refuses_a_point_before_any_runs(tmp_path, block, said):
    grid = tmp_path / "wrong.yaml"
    grid.write_text(f"grid: [{block}]")
    with pytest.raises(ValueError, match=said):
        sweep.main([str(grid), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
