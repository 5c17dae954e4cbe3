"""Progress of a run: a bar on a terminal, lines in a file or a pipe."""

from __future__ import annotations

import math
import time
from typing import Any

from tqdm import tqdm

from ..console.display import line, on_terminal


class RunDisplay:
    """One run of a comparison: a bar over its steps, or a line per evaluation.

    Args:
        title: which run it is, as "run 1 of 3, sdpa/1".
        steps: of the run.
        length: steps of an epoch.
        done: steps that were done before.
        after: runs that follow.
        show: whether anything is shown; of several processes one does.
    """

    def __init__(self, title: str, steps: int, length: int, done: int, after: int, show: bool):
        self.title, self.steps, self.epochs, self.after = title, steps, math.ceil(steps / length), after
        self.tells = show and not on_terminal()
        self.bar = tqdm(total=steps, initial=done, desc=title, disable=None if show else True)
        self.done, self.first, self.clock = done, done, time.perf_counter()
        if self.tells:
            line(title, f"{steps} steps in epochs of {length}", *([f"from step {done}"] if done else []))

    def step(self) -> None:
        """A step is done."""
        self.done += 1
        self.bar.update()

    def loss(self, loss: float) -> None:
        """Show the loss of the last step."""
        self.bar.set_postfix(loss=f"{loss:.4f}")
        if self.tells:
            line(self.title, f"step {self.done}/{self.steps}", f"loss {loss:.4f}", self.left())

    def evaluated(self, record: dict[str, Any]) -> None:
        """Show the record of an evaluation."""
        shown = {"loss": "train_loss", "held-out loss": "eval_loss", "held-out accuracy": "eval_accuracy"}
        values = {name: math.nan if record[key] is None else record[key] for name, key in shown.items()}
        self.bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()})
        if self.tells:
            epoch = f"epoch {record['epoch']:.4g}/{self.epochs}"
            speed = f"{record['steps_per_second']:.1f} steps/s"
            line(self.title, epoch, *(f"{name} {value:.4f}" for name, value in values.items()), speed, self.left())

    def left(self) -> str:
        """Time that this run takes at most, and this and those after it, if they are like it."""
        per_step = (time.perf_counter() - self.clock) / max(1, self.done - self.first)
        this = per_step * (self.steps - self.done)
        rest = f" ({_clock(this + per_step * self.steps * self.after)} for all runs)" if self.after else ""
        return f"at most {_clock(this)} left{rest}"

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def _clock(seconds: float) -> str:
    return tqdm.format_interval(math.ceil(seconds))
