"""The report of a training: a printed table, and ``report.md`` with its method, machine and options.

It works on any folder with results, so a recipe ends with ``print(report.write_report(...))``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..analysis.runs import Target
from ..metrics import quantities
from ..tables import markdown_table, quartiles
from . import plots
from .conclusion import conclusion
from .seeds import section

RunResult = dict[str, Any]


def table(results: Sequence[RunResult], target_accuracy: float | None = None, target_loss: float | None = None) -> str:
    """Markdown table with a line per attention: when it converged, and where it ended.

    Args:
        results: what ``train`` returned, for any number of seeds; with several, cells are median [quartiles].
        target_accuracy, target_loss: training accuracy or held-out loss at which a run has converged.
    """
    columns: dict[str, tuple[Callable[[RunResult], float | None], int]] = {}
    if target_loss is not None:
        columns[f"steps to loss {target_loss:g}"] = (lambda r: _reached(r, "step"), 0)
    elif target_accuracy is not None:
        columns[f"epochs to {target_accuracy:.0%}"] = (lambda r: _reached(r, "epoch"), 0)
        columns["steps"] = (lambda r: _reached(r, "step"), 0)
    if columns:
        columns["seconds"] = (lambda r: _reached(r, "seconds"), 1)
    for field, quantity in quantities().items():
        if any(field in result for result in results):
            columns[quantity.header] = (lambda r, field=field: r.get(field), quantity.digits)
    rows = [["attention", *columns]]
    for attention in dict.fromkeys(result["attention"] for result in results):
        runs = [result for result in results if result["attention"] == attention]
        rows.append([attention, *(_cell([get(run) for run in runs], digits) for get, digits in columns.values())])
    return markdown_table(rows)


def write_report(
    folder: Path,
    title: str,
    results: Sequence[RunResult],
    records: Sequence[RunResult],
    config: RunResult,
    notes: Sequence[str] = (),
) -> str:
    """Write ``report.md`` and ``curves.png`` of a training.

    Args:
        folder: the output folder.
        title: of the report and the plot.
        results: what ``train`` returned for every run.
        records: lines of ``metrics.jsonl``.
        config: the options in force, ``target_accuracy`` and ``target_loss`` among them.
        notes: paragraphs to add.

    Returns:
        The table, the notes and the conclusion, to be printed. Without matplotlib or an evaluation there are no
        curves, and a line says so.
    """
    accuracy, loss = config.get("target_accuracy"), config.get("target_loss")
    results_table = table(results, accuracy, loss)
    missing = None
    if not any(record["kind"] in plots.DRAWN for record in records):
        missing = "no curves.png: no run was evaluated"
    else:
        try:
            plots.curves(records, folder / "curves.png", title)
        except ImportError as error:
            missing = f"no curves.png: {error}"
    seeds = len({result["seed"] for result in results})
    target = ""
    if loss is not None:
        target = f"A run has converged when its held-out loss is at most {loss:g} nats (never: not within this run). "
    elif accuracy is not None:
        target = (
            f"Training accuracy is the running one of an epoch; a run has converged when it reaches {accuracy:.0%} "
            "(never: not within this run). "
        )
    text = [
        results_table,
        f"{target}Seconds, steps/s and tokens/s are of training steps, without evaluation and checkpoints; peak MB is "
        f"the highest memory of a process. {f'Median [quartiles] of {seeds} seeds.' if seeds > 1 else 'One seed.'}",
    ]
    for result in results:
        if result["status"] == "diverged":
            text += [f"- {result['run']} diverged: see `metrics.jsonl`, kind `diverged`."]
    text += [missing or "![Curves of the training](curves.png)", *notes]
    if seeds > 1 and records and (target_of_runs := Target.of(config)) is not None:
        text += ["## Over seeds", _over_seeds(records, target_of_runs, results[0]["attention"])]
    resumed = resumptions(results)
    found = conclusion(results, config)
    paragraphs = filter(None, [*text, resumed, "## Conclusion", found])
    write_markdown(folder, title, paragraphs, config, places(results))
    return "\n".join(filter(None, [results_table, missing, *notes, resumed, found, f"written to {folder}"]))


def _over_seeds(records: Sequence[RunResult], target: Target, baseline: str) -> str:
    try:
        return section(records, target, baseline)
    except ImportError as error:
        return f"Not computed: {error}"


def resumptions(results: Sequence[RunResult]) -> str | None:
    """A sentence on the runs that were resumed from a checkpoint; None if none was."""
    found = [f"{result['run']} at step {session['step']}" for result in results for session in _sessions(result)[1:]]
    if not found:
        return None
    return (
        f"Resumed from a checkpoint: {', '.join(found)}. Losses and accuracies are those of an uninterrupted run. "
        "Seconds go on from the checkpoint's, and the first step after it counts as those before it on average."
    )


def places(results: Sequence[RunResult]) -> str:
    """A sentence on the hardware and software of the runs, by machine if there were several."""
    parts: dict[str, list[str]] = {}
    for result in results:
        sessions = _sessions(result)
        ends = [*(str(session["step"]) for session in sessions[1:]), "its end"]
        for session, end in zip(sessions, ends, strict=True):
            steps = f" (from step {session['step'] + 1} to {end})" if len(sessions) > 1 else ""
            parts.setdefault(session["where"], []).append(result["run"] + steps)
    if len(parts) == 1:
        return f"Ran on {next(iter(parts))}."
    listed = "\n".join(f"- {where}: {', '.join(runs)}" for where, runs in parts.items())
    return f"Ran on {len(parts)} machines or settings, whose seconds, steps/s and MB do not compare:\n\n{listed}"


def _sessions(result: RunResult) -> list[dict[str, Any]]:
    """The steps and machines at which a run was started or resumed."""
    return result.get("sessions") or [{"step": 0, "where": "a machine that was not recorded"}]


def write_markdown(folder: Path, title: str, paragraphs: Iterable[str], config: RunResult, ran: str) -> None:
    """Write ``report.md``: the paragraphs, the machine (``ran``) and the options."""
    options = "\n".join(f"    {name}: {value}" for name, value in config.items())
    text = "\n\n".join([f"# {title}", *paragraphs, ran, "## Options", options])
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")


def _reached(result: RunResult, what: str) -> float:
    return result["reached"][what] if result["reached"] else math.inf


def _cell(values: Sequence[float | None], digits: int) -> str:
    """Median, with quartiles if there are several values; None counts as missing."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"

    def show(value: float) -> str:
        return "never" if math.isinf(value) else f"{value:.{digits}f}"

    low, middle, high = quartiles(values)
    return show(middle) if len(values) == 1 else f"{show(middle)} [{show(low)}, {show(high)}]"
