"""A grid and what it has found, as the page of results needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..analysis.runs import Run, Target, find_runs

TIMES, CURVES = "_times.png", ".png"
"""Ends of the names of a grid's pictures."""


@dataclass(frozen=True)
class Planned:
    """A run of a grid.

    Attributes:
        name: of the point.
        task: its task, or data.
        setting: the task and what else tells it from others of the grid, but attention and seed.
        attention, seed: of the run.
        target: when it has converged; None if it has no target.
        step_seconds: seconds of a step on a quiet machine; None if they were not measured.
    """

    name: str
    task: str
    setting: str
    attention: str
    seed: int
    target: Target | None
    step_seconds: float | None = None


@dataclass(frozen=True)
class Evidence:
    """A grid and what it has found.

    Attributes:
        name, about: of the grid.
        planned: all runs.
        runs: lines of finished runs, by the name of the point.
        records: their evaluations.
        lengths: lines of models that were tested on rows of other lengths.
        quantities: lines of models whose attention was measured.
        failed: number of runs that failed.
        joins: name of the grid whose tables show it, if that is another.
        together: whether its tasks ask the same question and are tested together, too.
    """

    name: str
    about: str
    planned: Sequence[Planned]
    runs: Mapping[str, Mapping[str, Any]]
    records: Sequence[Mapping[str, Any]]
    lengths: Sequence[Mapping[str, Any]] = ()
    quantities: Sequence[Mapping[str, Any]] = ()
    failed: int = 0
    joins: str | None = None
    together: bool = False

    @property
    def counts(self) -> str:
        """Numbers of runs in words."""
        return f"{len(self.done)} of {len(self.planned)} runs are done; {self.failed} failed."

    @property
    def done(self) -> list[Planned]:
        """Runs that are finished."""
        return [run for run in self.planned if run.name in self.runs]

    @property
    def settings(self) -> dict[str, list[Planned]]:
        """Runs by setting, in the order of the grid."""
        found: dict[str, list[Planned]] = {}
        for run in self.planned:
            found.setdefault(run.setting, []).append(run)
        return found

    def records_by_setting(self) -> dict[str, list[dict[str, Any]]]:
        """Records of the settings that have some, in the order of the grid, with the setting as their task."""
        by_run: dict[str, list[Mapping[str, Any]]] = {}
        for record in self.records:
            by_run.setdefault(record["run"], []).append(record)
        found: dict[str, list[dict[str, Any]]] = {}
        for run in self.planned:
            if run.name in by_run:
                found.setdefault(run.setting, []).extend({**each, "task": run.setting} for each in by_run[run.name])
        return {setting: found[setting] for setting in self.settings if setting in found}

    @property
    def pictures(self) -> dict[str, str]:
        """Names of the pictures that its runs give, with what they show."""
        found = {}
        if self.times():
            found[self.name + TIMES] = "When each run reached the target; a bar is the median"
        if self.records_by_setting():
            found[self.name + CURVES] = "Learning curves: median and quartiles over seeds"
        return found

    def times(self) -> list[Run]:
        """When each finished run that has a target reached it."""
        targets = {run.setting: run.target for run in self.planned}
        return [
            run
            for setting, records in self.records_by_setting().items()
            if targets[setting] is not None
            for run in find_runs(records, targets[setting])
        ]
