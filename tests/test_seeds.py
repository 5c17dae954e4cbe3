"""Statistics over seeds: runs that never reach the target, paired speed-ups, and the report's section on them."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_semfocus import analysis
from hf_semfocus.analysis import Run, Target
from hf_semfocus.analysis.times import Quantile, survival_quantile
from hf_semfocus.reports import report
from hf_semfocus.reports.seeds import section

pytest.importorskip("scipy")
GRID = Path(__file__).parents[1] / "recipes" / "results" / "paper_cpu"
TARGET = Target("train_accuracy", 0.95)
FULL, TOPK = "sdpa", "topk_sparse:k=5"


def runs(attention, *times, ends=60):
    """A run per seed: when it reached the target, or None, or "diverged"."""
    made = []
    for seed, time in enumerate(times):
        reached = {"epoch": time, "step": 10 * time} if isinstance(time, int) else None
        last = {"epoch": ends, "step": 10 * ends}
        made.append(Run("", attention, seed, reached, last, diverged=time == "diverged"))
    return made


def records(attention, *accuracies):
    """Two epochs of a run per seed, each with its training accuracy."""
    made = []
    for seed, values in enumerate(accuracies):
        for epoch, value in enumerate(values, start=1):
            when = {"epoch": epoch, "step": 10 * epoch, "seconds": 2.0 * epoch}
            who = {"kind": "epoch", "run": f"{attention}/{seed}", "attention": attention, "seed": seed}
            made.append({**who, **when, "train_accuracy": value, "eval_loss": 1.0 - value / 2, "eval_accuracy": value})
    return made


@pytest.mark.parametrize("number", range(1, 7))
def test_median_of_runs_that_all_reach_it_is_the_ordinary_one(number):
    times = np.random.default_rng(number).permutation(20)[:number]
    assert survival_quantile(times, [True] * number, 0.5) == Quantile(float(np.median(times)), True)


def test_kaplan_meier_by_hand():
    # at risk 6, 5, 3, 1 as the target is reached at 6, 7, 10, 15: the survival is 5/6, 2/3, 4/9, 0
    times, reached = [6, 7, 9, 10, 11, 15], [True, True, False, True, False, True]
    assert survival_quantile(times, reached, 0.5) == Quantile(10.0, True)
    assert survival_quantile(times, reached, 0.2) == Quantile(7.0, True)
    assert survival_quantile(times, reached, 0.75) == Quantile(15.0, True)


@pytest.mark.parametrize(
    ("times", "expected", "shown"),
    [
        ((5, 6, 60), Quantile(6.0, True), "6"),
        ((5, None, None), Quantile(60.0, False), "more than 60"),
        ((5, None), Quantile(32.5, False), "more than 32.5"),
        ((None, None), Quantile(60.0, False), "more than 60"),
        ((7, 5, "diverged"), Quantile(7.0, True), "7"),
    ],
)
def test_runs_that_never_reach_it_are_not_left_out(times, expected, shown):
    [found] = analysis.times_to_target(runs(TOPK, *times))
    assert (found.median, str(found.median)) == (expected, shown)
    assert (found.runs, found.reached) == (len(times), sum(isinstance(time, int) for time in times))


def test_a_run_that_diverged_counts_as_watched_to_the_end():
    early = Run("", TOPK, 0, None, {"epoch": 2}, diverged=True)
    others = [Run("", TOPK, seed, {"epoch": 10 + seed}, {"epoch": 60}) for seed in (1, 2)]
    [found] = analysis.times_to_target([early, *others])
    assert found.median == Quantile(12.0, True)
    stopped = Run("", TOPK, 0, None, {"epoch": 2})  # was interrupted, and says nothing of what was to come
    [found] = analysis.times_to_target([stopped, *others])
    assert found.median == Quantile(11.5, True)


def test_speedups_of_known_pairs():
    full, topk = runs(FULL, 40, 38, 55, 20, 30, 44, 60, 33), runs(TOPK, 5, 60, 4, 5, 6, 4, 10, 33)
    [found] = analysis.speedups([*full, *topk], FULL)
    assert (found.attention, found.pairs, found.faster, found.slower) == (TOPK, 8, 6, 1)
    assert found.low == found.high == np.median([40 / 5, 38 / 60, 55 / 4, 20 / 5, 30 / 6, 44 / 4, 60 / 10, 33 / 33])
    low, high = found.interval
    assert 0.6 < low < found.low < high < 14
    # of 7 pairs the only negative one has the smallest logarithm: 2 of 2^7 sign patterns are as extreme on each side
    assert (found.test, found.p) == ("Wilcoxon signed-rank", pytest.approx(4 / 128))
    assert found.enough
    assert found == analysis.speedups([*full, *topk], FULL)[0]  # the same on every call
    assert [each.unit for each in analysis.speedups([*full, *topk], FULL, "step")] == ["step"]


def test_speedups_with_limits_only():
    full, topk = runs(FULL, None, 30, None, "diverged", None, 50, 9), runs(TOPK, 5, 5, None, 5, 60, 10, "diverged")
    [found] = analysis.speedups([*full, *topk], FULL)
    # 12 and more, 6, unknown, infinite, 1 and more, 5, 0
    assert (found.pairs, found.faster, found.slower) == (7, 4, 1)
    assert (found.low, found.high) == (5.0, math.inf)
    assert found.test == "sign"
    assert found.p == pytest.approx(2 * (1 + 5) / 2**5)
    assert found.interval[0] <= 5.0
    assert math.isinf(found.interval[1])
    assert not found.enough
    assert found.smallest_p == 2 / 2**5


def test_pairs_are_of_one_seed_and_task():
    one = [Run("parity", FULL, 1, {"epoch": 9}, {"epoch": 9}), Run("parity", TOPK, 1, {"epoch": 3}, {"epoch": 9})]
    other = [Run("stack", FULL, 1, {"epoch": 9}, {"epoch": 9}), Run("stack", TOPK, 2, {"epoch": 1}, {"epoch": 9})]
    [found] = analysis.speedups([*one, *other], FULL)
    assert (found.task, found.pairs, found.low, found.interval, found.p) == ("parity", 1, 3.0, None, 1.0)
    with pytest.raises(ValueError, match="baseline='eager'; expected one of sdpa, topk_sparse:k=5"):
        analysis.speedups(one, "eager")
    with pytest.raises(ValueError, match="unit='seconds', but sdpa with seed 1 has epoch"):
        analysis.times_to_target(one, "seconds")


def test_runs_of_records():
    found = analysis.find_runs(
        [*records(FULL, (0.5, 0.96)), {"kind": "diverged", "attention": FULL, "seed": 0, "epoch": 3, "step": 21}],
        TARGET,
    )
    assert found == [Run("", FULL, 0, {"epoch": 2, "step": 20, "seconds": 4.0}, {"epoch": 3, "step": 21}, False)]
    part = [{**record, "kind": "eval"} for record in records(FULL, (0.99,))]
    assert analysis.find_runs(part, TARGET)[0].reached is None  # the accuracy of a part of an epoch
    assert analysis.find_runs(part, Target("eval_loss", 0.6))[0].reached["step"] == 10
    lost = [{**record, "kind": "diverged", "train_accuracy": None} for record in records(FULL, (0.1,))]
    assert analysis.find_runs(lost, TARGET)[0].diverged
    with pytest.raises(ValueError, match="sdpa with seed 0 goes back from step 20 to 10; expected one run"):
        analysis.find_runs(records(FULL, (0.1, 0.2)) * 2, TARGET)


def test_target_of_options():
    assert Target.of({"target_loss": 2.5, "target_accuracy": 0.95}) == Target("eval_loss", 2.5)
    assert Target.of({"target_accuracy": 0.95}) == TARGET
    assert Target.of({"target_accuracy": 2.0}) is Target.of({}) is None


def test_grid_in_the_repository():
    lines = analysis.read_records(GRID)
    found = {(run.task, run.attention, run.seed): run.reached for run in analysis.find_runs(lines, TARGET)}
    for run in map(json.loads, (GRID / "runs.jsonl").read_text().splitlines()):
        reached = found[run["task"], run["attention"], run["seeds"]]
        assert reached == (run["reached"] and {name: run["reached"][name] for name in ("epoch", "step")})
    curve = analysis.bands(lines, "epoch", "eval_accuracy")["even_pairs", TOPK]
    assert curve["x"][0] == 1
    assert (curve["low"] <= curve["median"]).all()
    assert (curve["median"] <= curve["high"]).all()


def test_files_and_folders_are_read(tmp_path):
    lines = [json.dumps(record) for record in records(FULL, (0.5, 0.9))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n" + lines[0][:20])
    assert analysis.read_records(tmp_path) == records(FULL, (0.5, 0.9))
    assert len(analysis.read_records(tmp_path, tmp_path / "metrics.jsonl")) == 4
    with pytest.raises(ValueError, match=r"nothing is not a file; expected metrics.jsonl"):
        analysis.read_records(tmp_path / "nothing")
    (tmp_path / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(ValueError, match="is not a record"):
        analysis.read_records(tmp_path)


def test_the_reports_section(tmp_path):
    lines = [*records(FULL, (0.5, 0.5), (0.5, 0.97), (0.4, 0.5)), *records(TOPK, (0.97, 1.0), (0.96, 1.0), (0.5, 0.5))]
    results = [
        {"run": f"{name}/{seed}", "attention": name, "seed": seed, "status": "finished", "reached": None, "epoch": 2}
        for name in (FULL, TOPK)
        for seed in range(3)
    ]
    report.write_report(tmp_path, "Title", results, lines, {"target_accuracy": 0.95})
    text = (tmp_path / "report.md").read_text()
    assert f"## Over seeds\n\n{section(lines, TARGET, FULL)}\n\n" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.count("|") == 10]
    assert rows[2][:6] == [TOPK, "epochs", "3", "2", "0", "at least 2.00"]
    assert rows[2][7:] == ["sign", "0.5"]
    assert "| sdpa            | 1 of 3" in text
    assert "more than 2" in text
    assert "Too few pairs decide for a p below 0.05, whatever they show: the smallest possible is 0.5." in text
    report.write_report(tmp_path, "Title", results[::3], lines, {"target_accuracy": 0.95})
    assert "Over seeds" not in (tmp_path / "report.md").read_text()


def test_without_scipy_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    lines = records(FULL, (0.5, 0.5), (0.5, 0.97))
    results = [
        {"run": str(seed), "attention": FULL, "seed": seed, "status": "finished", "reached": None} for seed in (0, 1)
    ]
    report.write_report(tmp_path, "Title", results, lines, {"target_accuracy": 0.95})
    expected = "## Over seeds\n\nNot computed: statistics over seeds need SciPy; pip install 'hf_semfocus[analysis]'"
    assert expected in (tmp_path / "report.md").read_text()
