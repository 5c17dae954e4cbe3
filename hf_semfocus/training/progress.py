"""Where a run stands, and whether it is over."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from .options import TrainingOptions


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: epochs finished; position: steps done in the next one; step: steps in all.
        seconds: time spent in training steps.
        loss, correct, units: sums over the units of the running epoch.
        tokens: tokens of all steps, padding included.
        peak_memory: highest memory of a process so far, in 10**6 bytes.
        records: records this run has in the log.
        reached: epoch, step and seconds at which the target was reached.
        best: best held-out score so far, higher is better.
        last: record of the last evaluation.
        sessions: where the run began or was resumed, as the "step" it had, and "where" in words.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    correct: float = 0.0
    units: int = 0
    tokens: int = 0
    peak_memory: float = 0.0
    records: int = 0
    reached: dict[str, float] | None = None
    best: float | None = None
    last: dict[str, Any] | None = None
    sessions: list[dict[str, Any]] = field(default_factory=list)

    def begin_session(self, where: str) -> None:
        """Note where the run goes on; one that did not get further than this leaves no trace."""
        done = [session for session in self.sessions if session["step"] < self.step]
        self.sessions = [*done, {"step": self.step, "where": where}]

    def count(self, loss: float, correct: float, units: int, tokens: int) -> None:
        """Count a step, and what it found."""
        self.step += 1
        self.position += 1
        self.loss += loss
        self.correct += correct
        self.units += units
        self.tokens += tokens

    def begin_epoch(self) -> None:
        """Clear what counts from the start of an epoch."""
        self.position, self.loss, self.correct, self.units = 0, 0.0, 0.0, 0


def total_steps(options: TrainingOptions, length: int) -> int:
    """Steps of a run with epochs of ``length`` steps."""
    return int(min(options.epochs * length, options.max_steps or math.inf))


def is_over(progress: Progress, options: TrainingOptions, length: int) -> bool:
    """Whether a run, with epochs of ``length`` steps, has had its epochs, its steps, or those after convergence."""
    epoch = progress.epoch + progress.position / length
    return (
        epoch >= options.epochs
        or (options.max_steps is not None and progress.step >= options.max_steps)
        or (progress.reached is not None and epoch >= progress.reached["epoch"] + options.epochs_after_target)
    )


class StepClock:
    """Measures the seconds of training steps, without evaluations and checkpoints, into a run's progress."""

    def __init__(self, progress: Progress):
        self.progress, self.resumed, self.last = progress, progress.step > 0, 0.0

    def start(self) -> None:
        """The next step begins."""
        self.last = time.perf_counter()

    def step(self) -> None:
        """A step is done, and the next one begins; ``progress`` does not count it yet."""
        now, progress = time.perf_counter(), self.progress
        # the first step after a resumption loads and compiles what was there before
        progress.seconds += progress.seconds / progress.step if self.resumed else now - self.last
        self.last, self.resumed = now, False
