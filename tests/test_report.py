"""What a report says in words: who won, by how much and how surely, what was resumed, and on what it ran."""

import pytest

from hf_semfocus.reports import report
from hf_semfocus.reports.conclusion import conclusion

FULL, TOPK, BAND = "sdpa", "topk_sparse:k=5", "banded_sparse:window=5"


def runs(attention, *reached, ends=60, **fields):
    """A run per seed, which reached the target in that epoch of ten steps, or not."""
    made = []
    for seed, epoch in enumerate(reached):
        when = None if epoch is None else {"epoch": epoch, "step": 10 * epoch, "seconds": 1.5 * epoch}
        last = {"epoch": ends, "step": 10 * ends}
        one = {name: values[seed] for name, values in fields.items()}
        made.append(
            {"run": f"{attention}/{seed}", "attention": attention, "seed": seed, "reached": when, **last, **one}
        )
    return made


TARGET = {"target_accuracy": 0.95}
RACES = {
    "one seed": (
        [*runs(FULL, None), *runs(TOPK, 5), *runs(BAND, 8)],
        TARGET,
        "`topk_sparse:k=5` reached 95% training accuracy first, after 5 epochs. `banded_sparse:window=5` took 8 "
        "epochs, 1.6 times as many. `sdpa` had not after 60 epochs. This is one seed; another may order them other",
        "several seeds: `--seeds 1 2 3`; other numbers of keys: `--attention sdpa topk_sparse:k=2 topk_sparse:k=10`; ",
    ),
    "three seeds": (
        [*runs(FULL, 38, 55, None), *runs(TOPK, 5, 60, 4)],
        TARGET,
        "`topk_sparse:k=5` reached 95% training accuracy first, after 5 epochs, the median of 3 seeds. `sdpa` took 55 "
        "epochs, 11.0 times as many, and was later in 2 of 3 seeds.",
        "other numbers of keys",
    ),
    "few seeds": (
        [*runs(FULL, 38, None, None), *runs(TOPK, 5, 6, 4)],
        TARGET,
        "after 5 epochs, the median of 3 seeds. `sdpa` had not after 60 epochs, and did in 1 of 3 seeds.",
        "",
    ),
    "nobody": (
        [*runs(FULL, None), *runs(TOPK, None)],
        TARGET,
        "No attention reached 95% training accuracy. Which of them learns faster is not shown. This is one seed",
        "a longer training (`--epochs`); another `--learning_rate`; several seeds",
    ),
    "hardly anybody": (
        [*runs(FULL, None, None, None), *runs(TOPK, None, 3, None)],
        TARGET,
        "No attention reached 95% training accuracy in most of its seeds; `topk_sparse:k=5` did in 1 of 3 seeds. Whi",
        "a longer training",
    ),
    "a tie": (
        [*runs(FULL, 1), *runs(TOPK, 1)],
        TARGET,
        "`sdpa` and `topk_sparse:k=5` reached 95% training accuracy at the same time, after 1 epoch.",
        "",
    ),
    "a loss": (
        [*runs(FULL, 4), *runs(TOPK, 2)],
        {"target_loss": 1.5, "target_accuracy": 0.95},
        "`topk_sparse:k=5` reached a held-out loss of 1.5 first, after 20 steps. `sdpa` took 40 steps, 2.0 times as",
        "",
    ),
    "scores of one seed": (
        [*runs(FULL, None, eval_loss=[5.0]), *runs(TOPK, None, eval_loss=[5.25])],
        {"best_by": "loss"},
        "`sdpa` ended with the lowest held-out loss, 5.0000; `topk_sparse:k=5` 5.2500 (+0.2500). This is one seed; "
        "another may order them otherwise.",
        "several seeds",
    ),
    "scores that seeds alone explain": (
        [*runs(FULL, None, None, eval_accuracy=[0.86, 0.88]), *runs(TOPK, None, None, eval_accuracy=[0.85, 0.87])],
        {"best_by": "accuracy"},
        "`sdpa` ended with the highest held-out accuracy, 0.8700 (medians of 2 seeds); `topk_sparse:k=5` 0.8600 "
        "(-0.0100). Seeds alone make 0.0200, so that `topk_sparse:k=5` may be as good.",
        "",
    ),
    "a target that is never reached": (
        [*runs(FULL, None, eval_accuracy=[0.5]), *runs(TOPK, None, eval_accuracy=[0.75])],
        {"target_accuracy": 2.0, "best_by": "accuracy"},
        "`topk_sparse:k=5` ended with the highest held-out accuracy, 0.7500; `sdpa` 0.5000 (-0.2500).",
        "",
    ),
    "no score": (
        [*runs(FULL, None, eval_loss=[1.0]), *runs(TOPK, None)],
        {"best_by": "loss"},
        "`sdpa` ended with the lowest held-out loss, 1.0000. No score: `topk_sparse:k=5`.",
        "",
    ),
    "alone": (
        runs(TOPK, 5),
        TARGET,
        "One attention alone compares with nothing.",
        "a second attention: `--attention sdpa topk_sparse:k=8`",
    ),
}


@pytest.mark.parametrize("case", RACES)
def test_conclusion(case):
    results, config, shown, ideas = RACES[case]
    said, tried = conclusion(results, config).split("\n\n")
    assert said.startswith(shown) or shown in said
    assert tried.startswith("What to try next: ")
    assert ideas in tried
    assert ("one seed" in said) == (len({result["seed"] for result in results}) == 1 and case != "alone")


def test_report_and_print_end_with_the_conclusion(tmp_path):
    results = [{**run, "status": "finished"} for run in [*runs(FULL, None), *runs(TOPK, 5)]]
    printed = report.write_report(tmp_path, "Title", results, [], TARGET)
    text = (tmp_path / "report.md").read_text()
    said = conclusion(results, TARGET)
    assert f"## Conclusion\n\n{said}\n\n" in text
    assert printed.endswith(f"{said}\nwritten to {tmp_path}")


def sessions(result, *places):
    return {**result, "status": "finished", "sessions": [{"step": step, "where": where} for step, where in places]}


def test_a_report_says_where_every_run_ran_and_what_was_resumed(tmp_path):
    [full], [topk] = runs(FULL, None), runs(TOPK, 5)
    report.write_report(tmp_path, "Title", [sessions(full, (0, "A")), sessions(topk, (0, "A"))], [], TARGET)
    text = (tmp_path / "report.md").read_text()
    assert "\n\nRan on A.\n\n" in text
    assert "Resumed" not in text
    results = [sessions(full, (0, "A")), sessions(topk, (0, "A"), (100, "B"), (150, "A"))]
    printed = report.write_report(tmp_path, "Title", results, [], TARGET)
    text = (tmp_path / "report.md").read_text()
    resumed = "Resumed from a checkpoint: topk_sparse:k=5/0 at step 100, topk_sparse:k=5/0 at step 150. "
    assert resumed in text
    assert resumed in printed
    assert "Ran on 2 machines or settings, whose seconds, steps/s and MB do not compare:" in text
    first = "sdpa/0, topk_sparse:k=5/0 (from step 1 to 100), topk_sparse:k=5/0 (from step 151 to its end)"
    assert f"\n- A: {first}\n- B: topk_sparse:k=5/0 (from step 101 to 150)\n" in text


def test_runs_of_before_sessions_were_recorded(tmp_path):
    [full], [topk] = runs(FULL, None), runs(TOPK, 5)
    report.write_report(tmp_path, "Title", [{**full, "status": "finished"}, sessions(topk, (0, "A"))], [], TARGET)
    text = (tmp_path / "report.md").read_text()
    assert "\n- a machine that was not recorded: sdpa/0\n- A: topk_sparse:k=5/0\n" in text
