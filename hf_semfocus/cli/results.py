"""Write a page about all grids and their committed results: tables, learning curves, and a verdict per task.

    semfocus results

A grid is a file in ``--grids``; its results are in the folder of the same name in ``--results``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..analysis.runs import Target, read_records
from ..console import option, parse
from ..files import write_text
from ..grid import Point, Results, read_about, read_grid
from ..grid.cost import cost, step_seconds
from ..grid.points import digest_of
from ..grid.results import RUNS
from ..reports import plots
from ..reports.evidence import CURVES, TIMES, Evidence, Planned
from ..reports.evidence_tables import answers, section
from ..reports.theory_tables import ABOUT as THEORY
from ..tables import markdown_table
from .sweep import configuration, steps

STEP_TIMES = "step_times"
"""The grid whose times were measured on a quiet machine."""
LEFT_OUT = ("smoke", STEP_TIMES)
"""Grids that are no experiment."""
ABOUT = """\
# Results

Does attention that keeps few keys by content learn faster, and is it the content? This page is made by
`semfocus results` from the grids in `recipes/configs` and the lines in `recipes/results`; `tests/test_results.py`
checks that it matches them. `semfocus sweep recipes/configs/NAME.yaml` runs a grid, or what is left of it.

Times to the target are medians [quartiles] over seeds by Kaplan and Meier: runs that did not reach the target count as
watched to their end, hence "more than". Seconds are steps times the seconds of a step on a quiet machine, where these
were measured. A speed-up is the median over pairs of the same seed of how many times as many steps full attention
(`sdpa`) takes, with a 95% bootstrap interval of the median; p-values are of two-sided paired tests, which are named,
and Holm adjusts them for all comparisons of top-k in a grid, and apart from these for all of the other attentions, and
for tests of all tasks together; errors are thus limited within each of these groups, not over the page, whose grids
are also judged while they are partly run. A verdict confirms or contradicts where the adjusted p is below 0.05. A run
that several grids plan counts in each. Held-out scores are those of a run's last evaluation: accuracy, or loss in nats
of language models."""


@dataclass
class ResultsOptions:
    """Where grids and results are, and where the page goes."""

    grids: str = option("recipes/configs", "folder of the grid files")
    results: str = option("recipes/results", "folder of the results, each in a folder of its grid's name")
    page: str = option("model_cards/RESULTS.md", "the page; its pictures go to a folder beside it")


def main(args: Sequence[str] | None = None) -> None:
    """Write the page and its pictures."""
    [options] = parse(ResultsOptions, args=args, about=__doc__)
    page = Path(options.page)
    for name, folder in (("grids", options.grids), ("results", options.results), ("page", page.parent)):
        if not Path(folder).is_dir():
            raise ValueError(f"{name}={getattr(options, name)!r}: no folder {str(folder)!r}; expected an existing one")
    found = gather(Path(options.grids), Path(options.results))
    pictures = page.with_suffix("")
    for evidence, _ in found:
        if evidence.joins is None:
            _draw(evidence, pictures)
    write_text(page, text(found, pictures.name))
    print(f"written to {page}")


def _draw(evidence: Evidence, folder: Path) -> None:
    """Draw the pictures of a grid."""
    records, found = evidence.records_by_setting(), evidence.times()
    if records:  # without which there are no times
        folder.mkdir(parents=True, exist_ok=True)
    if found:
        tasks = dict.fromkeys(run.task for run in found)
        by_task = {task: [run for run in found if run.task == task] for task in tasks}
        plots.times(by_task, folder / (evidence.name + TIMES))
    if records:
        plots.panels(records, folder / (evidence.name + CURVES))


def gather(grids: Path, results: Path) -> list[tuple[Evidence, str]]:
    """The evidence of every grid, and the cost of what is left of it; those with most results come first."""
    quiet = Results(results / STEP_TIMES)
    kept = [_Kept.read(path.parent) for path in sorted(results.glob(f"*/{RUNS}"))]
    found: dict[str, tuple[Evidence, str]] = {}
    joined: dict[str, list[str]] = {}
    for path in sorted(grids.glob("*.yaml")):
        if path.stem in LEFT_OUT or "grid" not in yaml.safe_load(path.read_text(encoding="utf-8")):
            continue
        about, joins, together = read_about(path)
        own, points = Results(results / path.stem), read_grid(path, configuration)
        found_here = _of_points(points, sorted(kept, key=lambda one: one.folder != own.folder))
        left = [point for point in points if point.name not in found_here.runs]
        planned = _planned(points, step_seconds(points, quiet))
        if together and any(run.setting != run.task for run in planned):
            raise ValueError(f"{path}: together=True, but a task has several settings; expected one of each task")
        evidence = Evidence(
            path.stem,
            f"{about} Shown with {joins}." if joins else about,
            planned,
            found_here.runs,
            found_here.records,
            found_here.lengths,
            found_here.quantities,
            sum(point.name in own.failed for point in left),
            joins,
            together,
        )
        found[path.stem] = evidence, str(cost(left, steps, [own, quiet]))
        if joins is not None:
            joined.setdefault(joins, []).append(path.stem)
    for name, others in joined.items():
        for other in others:
            found[name] = _together(found[name][0], found[other][0]), found[name][1]
    return sorted(found.values(), key=lambda one: -len(one[0].done))


def text(found: Sequence[tuple[Evidence, str]], pictures: str) -> str:
    """The page.

    Args:
        found: of :func:`gather`.
        pictures: folder of the pictures, from the page.
    """
    rows = [["grid", "planned", "done", "diverged", "failed", "the rest costs"]]
    short, parts = [], []
    for evidence, rest in found:
        diverged = sum(evidence.runs[run.name]["status"] == "diverged" for run in evidence.done)
        counts = len(evidence.planned), len(evidence.done), diverged, evidence.failed
        rows.append([evidence.name, *map(str, counts), rest])
        if evidence.done and evidence.joins is None:
            parts += section(evidence, pictures)
            short += [f"- {evidence.name}, {of}: {said}" for of, said in answers(evidence).items()]
    missing = [f"- **{evidence.name}**: {evidence.about}" for evidence, _ in found if not evidence.done]
    parts += ["## Not run", "\n".join(missing)] if missing else []
    head = [ABOUT, THEORY, *(["## In short", "\n".join(short), "## Runs"] if short else []), markdown_table(rows)]
    return "\n\n".join([*head, *parts]) + "\n"


@dataclass(frozen=True)
class _Kept:
    """The results of a folder: lines of runs by their points, records of evaluations, and lines about their models."""

    folder: Path | None
    runs: Mapping[str, Mapping[str, Any]]
    records: Sequence[Mapping[str, Any]]
    lengths: Sequence[Mapping[str, Any]]
    quantities: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> _Kept:
        own = Results(folder)
        return cls(folder, {run["point"]: run for run in own.runs}, read_records(folder), own.lengths, own.quantities)


def _of_points(points: Sequence[Point], kept: Sequence[_Kept]) -> _Kept:
    """What folders hold of the points, by their names here.

    Where several folders have a run, or a measurement of its model, the first of them counts.
    """
    wanted = {point.digest: point.name for point in points}
    runs: dict[str, Mapping[str, Any]] = {}
    records: list[Mapping[str, Any]] = []
    lengths: dict[tuple[str, int], Mapping[str, Any]] = {}
    quantities: dict[str, Mapping[str, Any]] = {}
    for each in kept:
        known = {name: wanted[digest_of(name)] for name in each.runs if digest_of(name) in wanted}
        new = {name: here for name, here in known.items() if here not in runs}
        runs |= {here: each.runs[name] for name, here in new.items()}
        records += [{**record, "run": new[record["run"]]} for record in each.records if record["run"] in new]
        for line in each.lengths:
            if (here := wanted.get(digest_of(line["point"]))) is not None:
                lengths.setdefault((here, line["length"]), {**line, "point": here})
        for line in each.quantities:
            if (here := wanted.get(digest_of(line["point"]))) is not None:
                quantities.setdefault(here, {**line, "point": here})
    return _Kept(None, runs, records, list(lengths.values()), list(quantities.values()))


def _planned(points: Sequence[Point], seconds: Mapping[str, float]) -> list[Planned]:
    """Points as the page shows them; a setting names the options in which points of its task differ."""
    values: dict[str, dict[str, set[Any]]] = {}
    for point in points:
        own = values.setdefault(_task(point.options), {})
        for name in point.options:
            own.setdefault(name, set())
    for point in points:
        for name, found in values[_task(point.options)].items():
            found.add(point.options.get(name))
    planned = []
    for point in points:
        task, target = _task(point.options), Target.of(point.configuration)
        told = [
            f"{name}={value}"
            for name, value in point.options.items()
            if name not in ("task", "seeds", "attention") and len(values[task][name]) > 1
        ]
        who = point.options["attention"], point.options["seeds"]
        planned.append(Planned(point.name, task, ", ".join([task, *told]), *who, target, seconds.get(point.name)))
    return planned


def _task(options: Any) -> str:
    return str(options.get("task") or options.get("dataset") or "even_pairs")


def _together(one: Evidence, other: Evidence) -> Evidence:
    """A grid with the runs of another that joins it."""
    return replace(
        one,
        planned=[*one.planned, *other.planned],
        runs={**one.runs, **other.runs},
        records=[*one.records, *other.records],
        lengths=[*one.lengths, *other.lengths],
        quantities=[*one.quantities, *other.quantities],
        failed=one.failed + other.failed,
    )
