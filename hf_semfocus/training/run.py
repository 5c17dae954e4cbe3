"""One run: its name, its folder, and what it ended with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoints
from .options import TrainingOptions
from .progress import Progress, is_over


@dataclass(frozen=True)
class Run:
    """One run: its name in the records, its attention, its seed, its folder, and which it is of how many.

    One that is not ``alone`` has others trained beside it, so that its time tells nothing of theirs.
    """

    name: str
    attention: str
    seed: int
    folder: Path
    number: int = 1
    of: int = 1
    alone: bool = True

    @property
    def log(self) -> Path:
        """The file of its records."""
        return self.folder / "metrics.jsonl"

    def result(self) -> dict[str, Any] | None:
        """What ``train`` ended with; None if the run is not finished.

        Raises:
            ValueError: what it ended with cannot be read any more.
        """
        path = self.folder / "result.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); delete {self.folder} to train this run anew") from error


def ended(run: Run, options: TrainingOptions, length: int) -> dict[str, Any] | None:
    """What a run ended with, if it is not to go on for more epochs; ``length`` is the steps of an epoch.

    Raises:
        ValueError: it is to go on, and has no checkpoint.
    """
    result = run.result()
    if result is None or result["status"] == "diverged":
        return result
    if is_over(Progress(epoch=result["epoch"], step=result["step"], reached=result["reached"]), options, length):
        return result
    if not Checkpoints(run.folder).all():
        raise ValueError(f"{run.folder} has no checkpoint, so {run.name} cannot have more epochs; train it anew")
    return None
