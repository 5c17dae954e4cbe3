"""What a grid shows: for every setting a table of times to the target, paired with full attention, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..analysis.paired import Speedup, speedups
from ..analysis.runs import Run
from ..analysis.times import TimeToTarget, times_to_target
from ..metrics import quantities
from ..tables import markdown_table, quartiles
from .comparisons import ALL_TASKS, BASELINE, FOCUS, Compared, Key, compare
from .evidence import Evidence, Planned
from .seeds import between, interval
from .theory_tables import theory
from .verdicts import answer, judged, score_verdict, speedup, verdict

SPEEDUP = ["speed-up", "95% interval", "faster, slower", "test", "p", "Holm"]
HEADER = ["attention", "runs", "reached it", "epochs", "steps", "seconds", "held-out", *SPEEDUP]


def section(evidence: Evidence, pictures: str | None) -> list[str]:
    """Paragraphs on a grid of which runs are done: counts, and for every setting a table and a verdict.

    Args:
        evidence: of the grid.
        pictures: folder of its pictures, for links; None to leave them out.

    Raises:
        ImportError: SciPy is not installed.
    """
    parts = [f"## {evidence.name}", f"{evidence.about} {evidence.counts}".strip()]
    times = evidence.times()
    compared = compare(times, evidence.together)
    if pictures is not None:
        parts += [f"![{shows}]({pictures}/{name})" for name, shows in evidence.pictures.items()]
    if compared:
        of_each = {each.focused: each.family for (task, *_), each in compared.items() if task != ALL_TASKS}
        counts = f"{of_each.get(True, 0)} of top-k, and {of_each.get(False, 0)} of other attentions"
        parts.append(f"Comparisons that Holm's method adjusts, each group apart: {counts}.")
    if over_all := _of(ALL_TASKS, compared):
        parts += [f"### {ALL_TASKS}", *_all_tasks(over_all)]
        parts += [_by_task(compared)] if judged(over_all) else []
    for setting, runs in evidence.settings.items():
        parts += [f"### {setting}", *_setting(evidence, runs, times, compared)]
        parts += [*_lengths(evidence, runs), *theory(evidence, runs)]
    return parts + _at_their_best(evidence, times)


def answers(evidence: Evidence) -> dict[str, str]:
    """The judgement of every setting with times to a target of top-k and full attention, and of all tasks together."""
    compared = compare(evidence.times(), evidence.together)
    tasks = sorted(dict.fromkeys(task for task, *_ in compared), key=lambda task: task != ALL_TASKS)
    found = {task: _of(task, compared) for task in tasks}
    said = {task: answer(each) for task, each in found.items() if judged(each)}
    return {task: f"{text} {_by_task(compared)}" if task == ALL_TASKS else text for task, text in said.items()}


def _setting(
    evidence: Evidence,
    planned: Sequence[Planned],
    times: Sequence[Run],
    compared: Mapping[Key, Compared],
) -> list[str]:
    """The table of a setting, and its verdict."""
    setting, own = planned[0].setting, [run for run in planned if run.name in evidence.runs]
    if not own:
        return ["Not run."]
    here = [run for run in times if run.task == setting]
    reached = {
        unit: {each.attention: each for each in times_to_target(here, unit)} if here else {}
        for unit in ("epoch", "step")
    }
    rows = [HEADER]
    for attention in dict.fromkeys(run.attention for run in planned):
        mine = [run for run in planned if run.attention == attention]
        ended = [evidence.runs[run.name] for run in mine if run.name in evidence.runs]
        epochs, steps = (reached[unit].get(attention) for unit in ("epoch", "step"))
        found = compared.get((setting, attention, BASELINE))
        rows.append(
            [
                attention,
                f"{len(ended)} of {len(mine)}",
                "-" if epochs is None else f"{epochs.reached} of {epochs.runs}",
                *(_times(each) for each in (epochs, steps)),
                _times(steps, mine[0].step_seconds) if mine[0].step_seconds else "-",
                _score(ended),
                *(["-"] * len(SPEEDUP) if found is None else _speedup(found.speedup, found.p)),
            ]
        )
    rows = [list(column) for column in zip(*rows, strict=True)]
    kept = [column for column in rows if column[0] == "attention" or set(column[1:]) != {"-"}]
    table = markdown_table([list(row) for row in zip(*kept, strict=True)])
    if planned[0].target is None:
        return [table, score_verdict({(run.attention, run.seed): evidence.runs[run.name] for run in own})]
    return [table, verdict(_of(setting, compared))]


def _all_tasks(found: Mapping[tuple[str, str], Compared]) -> list[str]:
    """The table of comparisons over all tasks, and its verdict."""
    rows = [["attention", "over", *SPEEDUP]]
    rows += [[own, base, *_speedup(each.speedup, each.p)] for (own, base), each in found.items()]
    about = (
        "A pair is a seed of a task, so tasks count by their pairs, which are independent but for the seeds they "
        "share. These tests are adjusted apart from the others. They can reject that no task has an effect, not more."
    )
    return [about, markdown_table(rows), verdict(found)]


def _by_task(compared: Mapping[Key, Compared]) -> str:
    """The speed-ups of the attention that is judged, task by task, as a test of all together hides where they are."""
    name = judged(_of(ALL_TASKS, compared))
    each = {task: one.speedup for (task, own, base), one in compared.items() if (own, base) == (name, BASELINE)}
    told = [f"{task} {speedup(one)}" for task, one in each.items() if task != ALL_TASKS]
    return f"By task: {', '.join(told)}."


def _of(task: str, compared: Mapping[Key, Compared]) -> dict[tuple[str, str], Compared]:
    """The comparisons of a task."""
    return {(own, base): each for (name, own, base), each in compared.items() if name == task}


def _lengths(evidence: Evidence, planned: Sequence[Planned]) -> list[str]:
    """A table of how the models of a setting do on rows of other lengths."""
    attentions = {run.name: run.attention for run in planned}
    lines = [line for line in evidence.lengths if line["point"] in attentions]
    if not lines:
        return []
    lengths = sorted({line["length"] for line in lines})
    rows = [["attention", "models", *(f"length {length}" for length in lengths)]]
    for attention in dict.fromkeys(attentions[line["point"]] for line in lines):
        own = [line for line in lines if attentions[line["point"]] == attention]
        scores = [_score([line for line in own if line["length"] == length]) for length in lengths]
        rows.append([attention, str(len({line["point"] for line in own})), *scores])
    return ["The best models of these runs on test rows of other lengths, accuracy:", markdown_table(rows)]


def _at_their_best(evidence: Evidence, times: Sequence[Run]) -> list[str]:
    """For tasks with several settings: full attention and top-k, each in the setting where it is fastest."""
    tasks = {run.setting: run.task for run in evidence.planned}
    parts = []
    for task in dict.fromkeys(tasks.values()):
        best: dict[str, TimeToTarget] = {}
        for each in times_to_target(times, "step") if times else []:
            if tasks[each.task] == task and (each.attention == BASELINE or each.attention.startswith(FOCUS)):
                best.setdefault(each.attention, each)
                rank = lambda found: (not found.median.reached, found.median.value)  # noqa: E731
                best[each.attention] = min(best[each.attention], each, key=rank)
        if list(tasks.values()).count(task) < 2 or BASELINE not in best or len(best) < 2:
            continue
        chosen = {(each.task, attention) for attention, each in best.items()}
        runs = [replace(run, task=task) for run in times if (run.task, run.attention) in chosen]
        rows = [["attention", "best setting", "steps", "speed-up", "95% interval", "faster, slower", "test", "p"]]
        found = {each.attention: _speedup(each, None)[:-1] for each in speedups(runs, BASELINE, "step")}
        for attention, each in best.items():
            rows.append([attention, each.task, _times(each), *found.get(attention, ["-"] * 5)])
        parts += [
            f"### {task}, each at its best",
            "The setting of the smallest median of steps, chosen on the runs that are compared, which favors none but "
            "makes the p-values too small.",
            markdown_table(rows),
        ]
    return parts


def _times(found: TimeToTarget | None, factor: float = 1.0) -> str:
    """Median and quartiles of a time."""
    if found is None:
        return "-"
    middle, low, high = (
        str(replace(each, value=float(f"{each.value * factor:.4g}"))) for each in (found.median, found.low, found.high)
    )
    return middle if low == middle == high else f"{middle} [{low}, {high}]"


def _score(ended: Sequence[Mapping[str, Any]]) -> str:
    """Median and quartiles of the last held-out accuracy, or loss of a language model."""
    field = "eval_loss" if any("eval_perplexity" in run for run in ended) else "eval_accuracy"
    values = [run[field] for run in ended if run.get(field) is not None]
    if not values:
        return "-"
    low, middle, high = (f"{value:.{quantities()[field].digits - 1}f}" for value in quartiles(values))
    return middle if low == middle == high else f"{middle} [{low}, {high}]"


def _speedup(found: Speedup, adjusted: float | None) -> list[str]:
    p = ["-" if value is None else f"{value:.2g}" for value in (found.p, adjusted)]
    counts = f"{found.faster}, {found.slower} of {found.pairs}"
    return [between(found.low, found.high), interval(found), counts, "-" if found.p is None else found.test, *p]
