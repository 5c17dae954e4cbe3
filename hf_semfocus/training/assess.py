"""What happens when a run is evaluated: a record, whether it is the best so far, and whether it has converged."""

from __future__ import annotations

from typing import Any

from accelerate.utils import gather_object

from ..analysis.runs import Target
from ..memory import peak_megabytes
from ..quantities import quantities
from .evaluation import evaluate
from .options import TrainingOptions
from .saving import save_model
from .state import RunState

TRACKED = ("train_loss", "train_accuracy", "learning_rate")
"""Fields of a record that a tracker gets, beside the held-out ones."""


def assess(state: RunState, kind: str, epoch: float) -> None:
    """Evaluate, record it, save the model if it is the best, and note whether it reaches the target.

    Args:
        state: of the run.
        kind: of the record, "epoch" or "eval".
        epoch: how many epochs the run has had.
    """
    accelerator, options, progress = state.accelerator, state.options, state.progress
    held_out = evaluate(
        accelerator, state.model, state.eval_rows, options.eval_batch_size, state.objective, state.metrics
    )
    peak = max(gather_object([peak_megabytes(accelerator.device)]))
    progress.peak_memory = max(progress.peak_memory, peak)
    progress.last = last = state.record(
        kind,
        epoch=epoch,
        train_loss=progress.loss / progress.units,
        train_accuracy=progress.correct / progress.units,
        **held_out,
        learning_rate=state.learning_rate,
        steps_per_second=progress.step / progress.seconds,
        tokens_per_second=progress.tokens / progress.seconds,
        peak_memory_mb=progress.peak_memory,
    )
    state.log.sync()
    tracked = {name: last[name] for name in (*TRACKED, *held_out) if last[name] is not None}
    accelerator.log({f"{state.run.name}/{name}": value for name, value in tracked.items()}, step=progress.step)
    state.display.evaluated(last)
    target = Target.of(vars(options))
    if progress.reached is None and target is not None and target.met(last):
        progress.reached = {name: last[name] for name in ("epoch", "step", "seconds")}
    score = _score(last, options)
    if score is not None and (progress.best is None or score > progress.best):
        progress.best = score
        save_model(accelerator, state.model, state.run.folder / "best", state.tokenizer)
    state.model.train()


def _score(record: dict[str, Any], options: TrainingOptions) -> float | None:
    """The held-out score that decides what is best, higher is better; None if it was not finite."""
    score = record[field := f"eval_{options.best_by}"]
    return score if score is None or quantities()[field].higher_is_better else -score
