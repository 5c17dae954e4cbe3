"""The page of results: it matches the committed lines, and says no more than they show."""

import json
import math
from dataclasses import replace
from itertools import dropwhile, takewhile

import pytest
from recipe import ROOT, load

from hf_semfocus.analysis import Run, Target, holm, read_records
from hf_semfocus.figures import new_figure
from hf_semfocus.reports import plots
from hf_semfocus.reports.comparisons import ALL_TASKS, compare
from hf_semfocus.reports.evidence import Evidence, Planned
from hf_semfocus.reports.evidence_tables import answers, section
from hf_semfocus.reports.theory_tables import theory
from hf_semfocus.reports.verdicts import score_verdict, verdict

pytest.importorskip("scipy")
results = load("results")
FULL, TOPK, RANDOM = "sdpa", "topk_sparse:k=5", "random_sparse:k=5"
TARGET = Target("train_accuracy", 0.95)


def test_the_page_matches_the_results():
    page = ROOT / "model_cards" / "RESULTS.md"
    found = results.gather(ROOT / "recipes" / "configs", ROOT / "recipes" / "results")
    assert page.read_text() == results.text(found, "RESULTS"), "expected what `semfocus results` writes"
    for evidence, _ in found:
        drawn = {path.name for path in page.with_suffix("").glob(f"{evidence.name}*.png")}
        assert drawn == (set(evidence.pictures) if evidence.joins is None else set())


def test_the_readme_begins_with_what_the_page_says():
    page = (ROOT / "model_cards" / "RESULTS.md").read_text()
    begins = " ".join((ROOT / "README.md").read_text().partition("## Install")[0].split())
    topk, random = (cells(page, "even_pairs")[name] for name in (TOPK, RANDOM))
    pairs = topk["faster, slower"].rpartition(" ")[2]
    assert f"takes {topk['speed-up']} times as many steps as its 5 highest-scoring keys" in begins
    assert f"(95% interval {topk['95% interval']}), and more for every one of {pairs} seeds" in begins
    assert f"{pairs}, 0 of {pairs}" == topk["faster, slower"]
    assert "**5 random keys** that stay the same also learn even pairs faster than full attention" in begins
    assert f"by {random['speed-up']} times" in begins
    stack, regression = (cells(page, task)[TOPK] for task in ("stack_manipulation", "in_context_regression"))
    assert f"no faster**: {stack['speed-up']} times ({stack['95% interval']}, 5 seeds)" in begins
    assert stack["faster, slower"] == "2, 3 of 5"
    assert f"needs a mean over all examples ({regression['speed-up']} times, 3 seeds)" in begins
    planted = cells(page, "planted:relevant=4")["topk_sparse:k=4"]
    assert f"({planted['speed-up']} times with k = 4, 3 seeds)" in begins
    assert planted["faster, slower"] == "0, 3 of 3"
    assert cells(page, "even_pairs")["random_sparse:k=5,redraw=forward"]["reached it"] == "0 of 2"
    assert regression["faster, slower"] == "0, 3 of 3"
    adam = ", optimizer=adamw, learning_rate=0.001"
    found = cells(page, f"even_pairs{adam}")
    assert [found[name]["epochs"].split()[0] for name in (FULL, TOPK)] == ["3", "2"]
    assert (
        "seeds, too few to decide) full attention needs 3 epochs for even pairs, the 5 highest-scoring keys 2"
        in begins
    )
    for setting, most in ((f"even_pairs{adam}", True), ("in_context_regression", True), ("even_pairs", False)):
        row = theory_of(page, setting)
        for condition in ("W holds", "X holds"):
            holds = [int(count) > int(row["models"]) / 2 for count in row[condition].partition(" of ")[0].split()]
            assert holds == [most] * 4, setting


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.5 * 1, none below one before it
    assert holm([0.5, 0.01, None, 0.03, 0.02]) == pytest.approx([0.5, 0.04, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None]) == [None]
    assert holm([]) == []


def runs(attention, times, last=100):
    return [
        Run(
            "task",
            attention,
            seed,
            None if time is None else {"epoch": time, "step": time},
            {"epoch": last, "step": last},
        )
        for seed, time in enumerate(times)
    ]


def judged(full, topk, random=(), others=()):
    """The verdict on times to the target, None for never."""
    all_runs = [*runs(FULL, full), *runs(TOPK, topk), *runs(RANDOM, random)]
    all_runs += [run for k, times in enumerate(others, start=6) for run in runs(f"topk_sparse:k={k}", times)]
    return verdict({(own, base): each for (_, own, base), each in compare(all_runs, False).items()})


SLOW, FAST = (50, 60, 70, 80, 55, 65, 75, 85), (5, 6, 7, 8, 4, 6, 7, 9)


@pytest.mark.parametrize(
    ("full", "topk", "said"),
    [
        (SLOW, FAST, "**Confirms**: `topk_sparse:k=5` is faster in 8 and slower in 0 of 8 pairs"),
        (FAST, SLOW, "**Contradicts**: `topk_sparse:k=5` is faster in 0 and slower in 8 of 8 pairs"),
        (SLOW, tuple(reversed(SLOW)), "**Does not confirm**"),
        (SLOW[:5], FAST[:5], "**Undecided**: `topk_sparse:k=5` is faster in 5"),
        ([None] * 8, FAST, "**Confirms**"),
        ([None] * 8, [None] * 8, "**Undecided**: `topk_sparse:k=5` is faster in 0 and slower in 0 of 8 pairs"),
    ],
)
def test_a_verdict_says_no_more_than_the_test(full, topk, said):
    assert judged(full, topk).startswith(said)


def test_top_k_and_other_attentions_are_families_of_their_own():
    found = compare([*runs(FULL, SLOW), *runs(TOPK, FAST), *runs(RANDOM, SLOW), *runs("eager", [None] * 8)], False)
    assert {(own, base): each.family for (_, own, base), each in found.items()} == {
        (TOPK, FULL): 2,
        (TOPK, RANDOM): 2,
        (RANDOM, FULL): 1,  # which no pair decides, as all are ties
        ("eager", FULL): 1,
    }
    assert found["task", TOPK, FULL].p == pytest.approx(2 / 128)
    assert found["task", RANDOM, FULL].p is None


def test_all_tasks_together_are_pairs_of_each():
    """Five pairs cannot decide, and ten of two tasks can; the same seed of two tasks is not a pair."""
    both = [*runs(FULL, SLOW[:5]), *runs(TOPK, FAST[:5])]
    both += [replace(run, task="other", reached={"epoch": run.reached["step"] * 2, "step": run.reached["step"] * 2})
             for run in both]  # fmt: skip
    found = compare(both, True)
    assert found["task", TOPK, FULL].p == pytest.approx(2 / 32 * 2)
    pooled = found[ALL_TASKS, TOPK, FULL]
    assert (pooled.speedup.pairs, pooled.speedup.faster, pooled.family) == (10, 10, 1)
    assert pooled.p == pytest.approx(2 / 1024)
    ratios = [slow / fast for slow, fast in zip(SLOW[:5], FAST[:5], strict=True)]
    assert pooled.speedup.low == pytest.approx(sorted(ratios)[2])
    assert not any(task == ALL_TASKS for task, *_ in compare(both[:10], True))


def test_a_verdict_names_controls_and_counts_all_comparisons():
    assert "**Confirms**" in judged(SLOW, FAST, FAST)
    assert "too: `random_sparse:k=5` is faster in 8" in judged(SLOW, FAST, FAST)
    assert "No control is faster" in judged(SLOW, FAST, SLOW)
    two = compare([*runs(FULL, SLOW), *runs("topk_sparse:k=2", FAST), *runs(TOPK, SLOW)], False)
    told = verdict({(own, base): each for (_, own, base), each in two.items()})
    assert "**Undecided**: `topk_sparse:k=5` is faster in 0" in told
    assert "Other speed-ups: `topk_sparse:k=2` 10.00 (8 pairs)." in told
    # 8 pairs give p = 1/128 at best, which 6 comparisons can bear, and 7 only if the others have smaller p-values
    few = [(50, 60, 70, 80, 55, 65, 75, 85), (51, 59, 71, 79, 56, 64, 76, 84)]
    assert judged(*few, others=[few[1]] * 5).startswith("**Does not confirm**")
    assert "so few deciding pairs give an adjusted p of 0.055 at best" in judged(*few, others=[few[1]] * 6)
    assert judged([*few[0], 90, 95], few[1], others=[(*FAST, 8, 9)] * 6).startswith("**Does not confirm**")
    assert verdict({}).startswith("**Undecided**: no seed")


def test_scores_are_compared_where_there_is_no_target():
    lines = {(name, seed): {"eval_loss": loss + seed, "eval_perplexity": 2.0}
             for name, loss in ((FULL, 3.0), (TOPK, 2.9)) for seed in range(3)}  # fmt: skip
    assert score_verdict(lines) == (
        "**Undecided**: `topk_sparse:k=5` ends with a lower held-out loss than full attention in 3 of 3 pairs "
        "(median difference -0.1000, sign test p = 0.25)."
    )
    accurate = {
        (name, seed): {"eval_accuracy": value} for name, value in ((FULL, 0.5), (TOPK, 0.4)) for seed in range(8)
    }
    assert score_verdict(accurate).startswith("`topk_sparse:k=5` ends with a higher held-out accuracy")
    assert "in 0 of 8 pairs (median difference -0.1000, sign test p = 0.0078)" in score_verdict(accurate)


def test_the_picture_of_times_has_a_mark_for_every_seed(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "new_figure", lambda **options: drawn.append(new_figure(**options)) or drawn[-1])
    plots.times({"a": [*runs(FULL, [None, 20, None]), *runs(TOPK, [5, 5, 7])]}, tmp_path / "times.png")
    [axis] = drawn[0].axes
    assert [text.get_text() for text in axis.get_yticklabels()] == [FULL, TOPK]
    marks = [sorted(x for x, _ in found.get_offsets().tolist()) for found in axis.collections]
    assert marks == [[20], [100, 100], [5, 5, 7], []]
    assert len({tuple(at) for found in axis.collections for at in found.get_offsets().tolist()}) == 6  # none is hidden
    assert [line.get_xdata()[0] for line in axis.get_lines()] == [5]  # only half of three runs give a median
    plots.times({name: runs(FULL, [5]) for name in "abc"}, tmp_path / "times.png")
    assert [axis.get_title() for axis in drawn.pop().axes] == ["a", "b", "c"]  # no fourth, empty panel
    order = [FULL, "topk_sparse:k=16", RANDOM, "topk_sparse:k=2", TOPK]
    plots.times({"a": [run for name in order for run in runs(name, [5])]}, tmp_path / "times.png")
    names = [text.get_text() for text in drawn.pop().axes[0].get_yticklabels()]
    assert names == [FULL, "topk_sparse:k=2", TOPK, "topk_sparse:k=16", RANDOM]
    plots.times({"a": [*runs(FULL, [None] * 10), *runs(TOPK, [5] * 10)]}, tmp_path / "times.png")
    for place, found in zip((0, 0, 1, 1), drawn[1].axes[0].collections, strict=True):
        assert all(abs(y - place) < 0.5 for _, y in found.get_offsets().tolist())


def evidence(settings):
    """Of settings with the epochs in which full attention and top-k reach the target, by seed."""
    planned, lines, records = [], {}, []
    for setting, by_name in settings.items():
        for name, times in by_name.items():
            for seed, time in enumerate(times):
                point = f"{setting}/{name}/{seed}"
                planned.append(Planned(point, "parity", setting, name, seed, TARGET, 0.5 if name == FULL else None))
                if time is None:
                    continue
                lines[point] = {"status": "converged", "eval_accuracy": 1 - 0.1 * seed}
                for epoch, accuracy in ((1, 0.5), (time, 1.0)):
                    who = {"kind": "epoch", "run": point, "attention": name, "seed": seed}
                    records.append({**who, "epoch": epoch, "step": 10 * epoch, "train_accuracy": accuracy})
    return Evidence("grid", "About.", planned, lines, records)


def cells(text, title):
    """Rows of the table under a title, by the first cell."""
    after = text[text.index(f"### {title}\n") :].split("\n")[2:]
    table = list(takewhile(lambda line: line.startswith("|"), dropwhile(lambda line: not line.startswith("|"), after)))
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def theory_of(text, title):
    """The row of top-5 in the table of quantities under a title."""
    after = text[text.index(f"### {title}\n") :]
    return cells("### x\n\n" + after[after.index("The theory's quantities, on") :], "x")[TOPK]


def test_a_test_of_all_tasks_names_them():
    grid = evidence({"parity": {FULL: (8, 9), TOPK: (4, 3)}})
    more = [replace(run, name=f"b{run.name}", task="other", setting="other") for run in grid.planned]
    lines = grid.runs | {f"b{name}": line for name, line in grid.runs.items()}
    records = [*grid.records, *({**record, "run": f"b{record['run']}"} for record in grid.records)]
    both = replace(grid, planned=[*grid.planned, *more], runs=lines, records=records, together=True)
    said = answers(both)
    assert list(said) == [ALL_TASKS, "parity", "other"]
    assert "By task: parity 2.50 (2 pairs), other 2.50 (2 pairs)." in said[ALL_TASKS]
    text = "\n\n".join(section(both, None))
    assert cells(text, ALL_TASKS)[TOPK]["faster, slower"] == "4, 0 of 4"
    assert said[ALL_TASKS].partition("By task")[2] in text
    assert list(answers(replace(both, together=False))) == ["parity", "other"]


def test_a_section_has_tables_of_what_is_there():
    settings = {"parity, lr=1": {FULL: (20, 30, None), TOPK: (2, 5, 4)}, "parity, lr=2": {FULL: (10, 6), TOPK: (3, 4)}}
    found = evidence({**settings, "parity, lr=3": {FULL: (None,), TOPK: (None,)}})
    shuffled = replace(found, records=found.records[::2][::-1])
    assert [*shuffled.records_by_setting()] == list(settings)
    names = [each["attention"] for each in shuffled.records_by_setting()["parity, lr=1"]]
    assert names == sorted(names, key=[FULL, TOPK].index)
    text = "\n\n".join(section(found, "pictures"))
    assert "About. 9 of 12 runs are done; 0 failed." in text
    first = cells(text, "parity, lr=1")
    assert (
        first[FULL] | {"epochs": "25 [20, 30]", "steps": "250 [200, 300]", "seconds": "125 [100, 150]"} == first[FULL]
    )
    assert (first[FULL]["runs"], first[FULL]["reached it"], first[FULL]["held-out"]) == (
        "2 of 3",
        "2 of 2",
        "0.950 [0.925, 0.975]",
    )
    assert (first[TOPK]["speed-up"], first[TOPK]["faster, slower"], first[TOPK]["seconds"]) == (
        "8.00",
        "2, 0 of 2",
        "-",
    )
    assert "### parity, lr=3\n\nNot run." in text
    lengths = [{"point": f"parity, lr=2/{TOPK}/{seed}", "length": 80, "eval_accuracy": 0.5} for seed in (0, 1)]
    assert "![When each run reached the target; a bar is the median](pictures/grid_times.png)" in text
    longer = "\n\n".join(section(replace(found, lengths=lengths), None))
    assert "| topk_sparse:k=5 | 2      | 0.500     |" in longer[longer.index("test rows of other lengths") :]
    best = cells(text, "parity, each at its best")
    assert (best[FULL]["best setting"], best[TOPK]["best setting"]) == ("parity, lr=2", "parity, lr=2")
    assert float(best[TOPK]["speed-up"]) == pytest.approx((10 / 3 + 6 / 4) / 2, abs=0.01)


def test_quantities_are_paired_by_seed_beside_the_papers():
    """Lambda at each quantile is computed from the two models of a seed; a control has no condition."""
    levels = ("0.0", "0.05", "0.1", "0.25", "0.75", "0.9", "0.95", "1.0")
    shares = {"rows": 200, "receptive_field": 0.5, "meeting": 1.0}
    grid = evidence({"even_pairs": {FULL: (5, 6, 7), TOPK: (2, 3), RANDOM: (4,)}})
    kept = {"kept_dispersion": dict.fromkeys(levels, 1.0), "in_degree": dict.fromkeys(levels, 10)}
    lines = [{"point": f"even_pairs/{FULL}/{seed}", **shares, "k": None, "dispersion": dict.fromkeys(levels, delta)}
             for seed, delta in ((0, 8.0), (1, 40.0), (2, 1e9))]  # fmt: skip
    for name, apart, seeds in ((TOPK, 0.5, (0, 1)), (RANDOM, -3.0, (0,))):
        more = {**kept, "separation": dict.fromkeys(levels, apart), "k": 5, **shares}
        lines += [{"point": f"even_pairs/{name}/{seed}", **more} for seed in seeds]
    told, table = theory(replace(grid, quantities=lines), grid.planned)
    assert told == "The theory's quantities, on 200 training rows:"
    found = cells(f"### x\n\n{table}", "x")
    each = [1 / delta + math.log(2 * (1 + 1 / 0.5)) / delta for delta in (8.0, 40.0)]
    assert found[TOPK]["lambda_W"] == " ".join([f"{sum(each) / 2:.3g}"] * 4)
    assert (found[TOPK]["models"], found[TOPK]["delta_s"], found[TOPK]["W holds"]) == (
        "2",
        "24 24 24 24",
        "2 2 2 2 of 2",
    )
    assert (found[FULL]["models"], found[FULL]["delta_s"], found[FULL]["beta"]) == ("3", "40 40 40 40", "-")
    assert (found[RANDOM]["delta_h"], found[RANDOM]["Delta_h"], found[RANDOM]["lambda_W"]) == ("1 1 1 1", "-", "-")
    assert found["topk_sparse:k=5, paper's code"]["lambda_W"] == "3.17 1.98 1.31 1.8"  # as in the paper's table
    assert theory(grid, grid.planned) == []


def test_without_dropped_keys_there_is_no_condition():
    """Where k is the number of keys, the separation is infinite, which JSON does not hold."""
    grid = evidence({"parity": {FULL: (5,), "topk_sparse:k=40": (5,)}})
    values = dict.fromkeys(("0.0", "0.05", "0.1", "0.25", "0.75", "0.9", "0.95", "1.0"), 1.0)
    shares = {"rows": 9, "receptive_field": 1.0, "meeting": 1.0}
    dense = {"point": f"parity/{FULL}/0", **shares, "k": None, "dispersion": values}
    all_kept = {"kept_dispersion": values, "in_degree": values, "separation": dict.fromkeys(values), "k": 40}
    lines = [{"point": "parity/topk_sparse:k=40/0", **shares, **all_kept}, dense]
    _, table = theory(replace(grid, quantities=lines), grid.planned)
    found = cells(f"### x\n\n{table}", "x")
    assert list(found)[:2] == [FULL, "topk_sparse:k=40"]  # as in the grid
    row = found["topk_sparse:k=40"]
    assert (row["delta_h"], row["Delta_h"], row["lambda_W"], row["W holds"]) == ("1 1 1 1", "-", "-", "-")


def test_a_run_that_diverged_is_read_from_its_line(tmp_path):
    run = {"point": "a", "task": "parity", "attention": FULL, "seeds": 1, "status": "diverged"}
    (tmp_path / "runs.jsonl").write_text(json.dumps(run) + "\n")
    (tmp_path / "evaluations.jsonl").write_text("")
    [record] = read_records(tmp_path)
    assert (record["kind"], record["run"], record["task"], record["seed"]) == ("diverged", "a", "parity", 1)


def test_the_page_of_other_folders(tmp_path, capfd):
    """A grid that joins another is shown there; one without results is named."""
    grids, kept = tmp_path / "grids", tmp_path / "results" / "one"
    grids.mkdir(), kept.mkdir(parents=True)
    one = "about: One.\ngrid: [{task: parity, seeds: [1, 2], attention: [sdpa, 'topk_sparse:k=5']}]"
    (grids / "one.yaml").write_text(one)
    (grids / "two.yaml").write_text("about: Two.\njoins: one\ngrid: [{task: parity, seeds: 1, attention: eager}]")
    (grids / "three.yaml").write_text(one.replace("One", "Three").replace("[1, 2]", "[1, 3]"))
    (grids / "options.yaml").write_text("task: parity")
    points = results.read_grid(grids / "one.yaml", results.configuration)
    for point in points[:2]:
        line = {"point": point.name, **point.options, "status": "finished", "reached": None, "eval_accuracy": 0.5}
        with (kept / "runs.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        with (kept / "evaluations.jsonl").open("a") as file:
            evaluated = {"epoch": 1, "step": 9, "train_accuracy": 0.5, "eval_accuracy": 0.5}
            file.write(json.dumps({"point": point.name, **evaluated}) + "\n")
    page = tmp_path / "page.md"
    results.main(["--grids", str(grids), "--results", str(tmp_path / "results"), "--page", str(page)])
    text = page.read_text()
    assert "- one, parity: **Undecided**: `topk_sparse:k=5` is faster in 0 and slower in 0 of 1 pair (speed-up" in text
    assert "One. 2 of 5 runs are done; 0 failed." in text
    assert "Three. 2 of 4 runs are done; 0 failed." in text  # as its two of seed 1 are runs of grid one, too
    assert "- **two**: Two. Shown with one." in text
    assert cells(text, "parity")["eager"]["runs"] == "0 of 1"
    for name in ("one.png", "one_times.png"):
        assert (tmp_path / "page" / name).stat().st_size > 1000
    assert "options" not in text
    (grids / "one.yaml").write_text(
        one.replace("grid:", "together: true\ngrid:").replace("]}]", "], epochs: [1, 2]}]")
    )
    with pytest.raises(ValueError, match="together=True, but a task has several settings; expected one of each task"):
        results.main(["--grids", str(grids), "--results", str(tmp_path / "results"), "--page", str(page)])


@pytest.mark.parametrize("name", ["grids", "results", "page"])
def test_a_folder_that_is_missing_is_named(tmp_path, name):
    folders = {"grids": tmp_path, "results": tmp_path, "page": tmp_path / "page.md", name: tmp_path / "no" / "such"}
    with pytest.raises(ValueError, match=f"{name}=.*: no folder .*; expected an existing one"):
        results.main([text for key, value in folders.items() for text in (f"--{key}", str(value))])
