"""Curves of a training: evaluations against epochs or steps, and against seconds.

Needs matplotlib, which comes with the extra ``hf_semfocus[plots]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.runs import Run
from ..analysis.times import times_to_target
from ..figures import COLORS, STYLES, band, new_figure
from ..metrics import quantities

DRAWN = ("epoch", "eval")
"""Kinds of records that hold an evaluation."""
LABELS = {
    "epoch": "epochs",
    "step": "steps",
    "seconds": "seconds of training",
}
"""Labels of the x axes."""


def curves(records: Sequence[dict[str, Any]], path: Path, title: str = "") -> None:
    """Draw the evaluations of a training; several seeds become their median with a band between the quartiles.

    Classifiers are drawn as accuracy and loss against epochs and seconds, language models (records with a perplexity)
    as held-out and training loss against steps and seconds. A run that ended early keeps its last value, so that the
    median is always over all seeds.

    Args:
        records: lines of ``metrics.jsonl``.
        path: image file to write; the suffix decides the format.
        title: of the figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are no records to draw.
    """
    drawn = [record for record in records if record["kind"] in DRAWN]
    if not drawn:
        raise ValueError(
            f"no records of the kinds {', '.join(DRAWN)}; expected those of a training with an evaluation"
        )
    language = any("eval_perplexity" in record for record in drawn)
    fields = ("eval_loss", "train_loss") if language else ("eval_accuracy", "eval_loss")
    figure = new_figure(figsize=(10, 7))
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, x in enumerate(("step" if language else "epoch", "seconds")):
        for row, y in enumerate(fields):
            axis = axes[row, column]
            _draw(axis, drawn, list(dict.fromkeys(record["attention"] for record in drawn)), x, y)
            if row == 1:
                axis.set_xlabel(LABELS[x])
            if column == 0:
                axis.set_ylabel(quantities()[y].label)
    axes[0, 0].legend()
    seeds = len({record["seed"] for record in drawn})
    figure.suptitle(f"{title} (median and quartiles of {seeds} seeds)" if seeds > 1 else title)
    figure.savefig(path, dpi=120)


def panels(settings: Mapping[str, Sequence[dict[str, Any]]], path: Path, width: int = 3) -> None:
    """Draw the held-out score of several settings side by side, as medians over seeds with bands between quartiles.

    Args:
        settings: records of evaluations by the title of their panel.
        path: image file to write.
        width: panels in a row.

    Raises:
        ImportError: matplotlib is not installed.
    """
    columns = min(width, len(settings))
    lines = -(-len(settings) // columns)
    figure = new_figure(figsize=(4.5 * max(columns, 2), 3.2 * lines + 0.8))
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    names = list(dict.fromkeys(record["attention"] for records in settings.values() for record in records))
    for axis, (title, records) in zip(axes, settings.items(), strict=False):
        language = any("eval_perplexity" in record for record in records)
        x, y = ("step", "eval_loss") if language else ("epoch", "eval_accuracy")
        _draw(axis, [record for record in records if y in record], names, x, y)
        axis.set(title=title, xlabel=LABELS[x], ylabel=quantities()[y].label)
    for axis in axes[len(settings) :]:
        axis.remove()
    shown = {line.get_label(): line for axis in figure.axes for line in axis.get_lines()}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=80)


def times(settings: Mapping[str, Sequence[Run]], path: Path, width: int = 3) -> None:
    """Draw when every run reached its target: a dot per seed, an arrow for one that did not while it was watched.

    A bar marks the median of an attention, by Kaplan and Meier, where half of its runs reached the target.

    Args:
        settings: runs by the title of their panel.
        path: image file to write.
        width: panels in a row.

    Raises:
        ImportError: matplotlib or SciPy is not installed.
    """
    columns = min(width, len(settings))
    lines = -(-len(settings) // columns)
    names = _by_size(dict.fromkeys(run.attention for runs in settings.values() for run in runs))
    figure = new_figure(figsize=(3.4 * columns + 2.6, (0.38 * len(names) + 1.0) * lines))
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axis, (title, runs) in zip(axes, settings.items(), strict=False):
        for place, attention in enumerate(names):
            color, own = COLORS[place % len(COLORS)], [run for run in runs if run.attention == attention]
            for marker, found in (
                ("o", [run.reached["epoch"] for run in own if run.reached is not None]),
                (">", [run.last["epoch"] for run in own if run.reached is None]),
            ):
                # seeds with the same time lie side by side
                step = {time: min(0.16, 0.8 / found.count(time)) for time in found}
                at = [
                    place + step[time] * (found[:i].count(time) - (found.count(time) - 1) / 2)
                    for i, time in enumerate(found)
                ]
                filled = {"color": color} if marker == "o" else {"facecolors": "none", "edgecolors": color}
                axis.scatter(found, at, marker=marker, s=22, alpha=0.8, **filled)
            for each in times_to_target(own):
                if each.median.reached:
                    axis.plot([each.median.value] * 2, [place - 0.4, place + 0.4], color=color, linewidth=2)
        axis.set(title=title, xlabel="epochs to the target (arrow: not reached)", xscale="log")
        axis.tick_params(labelbottom=True)  # there may be no panel below
        axis.set_yticks(range(len(names)), [name.replace(",", ",\n", 1) for name in names], fontsize="small")
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(_few_numbers())
        axis.grid(alpha=0.3, axis="x", which="both")
    for axis in axes[len(settings) :]:
        axis.remove()
    figure.savefig(path, dpi=100)


def _draw(axis: Any, records: Sequence[dict[str, Any]], names: Sequence[str], x: str, y: str) -> None:
    """Draw a band for every attention of ``names`` that has records."""
    for index, attention in enumerate(names):
        if own := [record for record in records if record["attention"] == attention]:
            style = {"color": COLORS[index % len(COLORS)], "linestyle": STYLES[index % len(STYLES)]}
            grid, low, middle, high = band(own, x, y)
            axis.plot(grid, middle, label=attention, **style)
            axis.fill_between(grid, low, high, alpha=0.2, color=style["color"], linewidth=0)
    axis.grid(alpha=0.3)


def swap_metric(points: Sequence[dict[str, Any]]) -> str:
    """The metric of a swap: perplexity if the points have it, else accuracy."""
    return "eval_perplexity" if "eval_perplexity" in points[0] else "eval_accuracy"


def swap(
    points: Sequence[dict[str, Any]],
    tuned: Sequence[dict[str, Any]],
    keys: dict[str, int | None],
    path: Path,
    title: str = "",
) -> None:
    """Draw the held-out score of a model under other attentions, against the number of kept keys.

    Args:
        points: ``attention``, ``seed`` and the held-out scores; the dense attention comes first.
        tuned: the same for models that were trained with those attentions, drawn as stars.
        keys: number of kept keys by attention; None is not drawn.
        path: image file to write; the suffix decides the format.
        title: of the figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(figsize=(10, 5))
    axis, metric = figure.subplots(), swap_metric(points)
    dense = points[0]["attention"]
    level = [point[metric] for point in points if point["attention"] == dense and point[metric] is not None]
    if level:
        axis.axhline(np.median(level), color="black", linestyle="--", label=dense)
    placed = [{**point, "keys": keys[point["attention"]]} for point in points if keys[point["attention"]] is not None]
    placed.sort(key=lambda point: point["keys"])
    stars = [{**point, "keys": keys[point["attention"]]} for point in tuned if keys[point["attention"]] is not None]
    family = lambda point: re.sub(r"=[^,+]*", "", point["attention"])  # noqa: E731
    for index, name in enumerate(dict.fromkeys(map(family, placed))):
        color = COLORS[index % len(COLORS)]
        grid, low, middle, high = band([point for point in placed if family(point) == name], "keys", metric)
        style = STYLES[index // len(COLORS) % len(STYLES)]
        axis.plot(grid, middle, marker="o", label=name, color=color, linestyle=style)
        axis.fill_between(grid, low, high, alpha=0.2, color=color, linewidth=0)
        own = [(p["keys"], p[metric]) for p in stars if family(p) == name and p[metric] is not None]
        if own:
            axis.scatter(*zip(*own, strict=True), marker="*", s=120, color=color, label=f"fine-tuned with {name}")
    if placed:
        ticks = _apart(sorted({point["keys"] for point in placed}))
        axis.set_xscale("log")
        axis.set_xticks(ticks, map(str, ticks))
        axis.minorticks_off()
    if metric == "eval_perplexity":
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(_few_numbers())
    axis.set_xlabel("keys a query keeps")
    axis.set_ylabel(quantities()[metric].label)
    axis.set_title(title)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _by_size(names: Iterable[str]) -> list[str]:
    """Attentions with the sizes of each mechanism in ascending order, mechanisms in the order of their first."""
    names = list(names)
    first = [name.partition(":")[0] for name in names]
    return sorted(names, key=lambda name: (first.index(name.partition(":")[0]), [*map(int, re.findall(r"\d+", name))]))


def _few_numbers() -> Any:
    """What labels the minor ticks of a logarithmic axis: plain numbers, where few ticks have one already."""
    from matplotlib.ticker import LogFormatter

    return LogFormatter(minor_thresholds=(1, 0.4))


def _apart(ticks: Sequence[int]) -> list[int]:
    """Those of increasing ``ticks`` that have room for their numbers on a logarithmic axis."""
    found: list[int] = []
    for tick in ticks:
        if not found or tick >= 1.2 * found[-1]:
            found.append(tick)
    return found
