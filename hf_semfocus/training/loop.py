"""The training loop: one run of one model, from its first step or its last checkpoint to its end.

It serves every command: what is trained is the model, what a step minimizes is the objective, and the rest is in
``TrainingOptions``. The parts of it are ``state`` (what a run trains with), ``steps``, ``assess`` and ``ending``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..console.signals import first, stop_noted
from ..data.batches import Rows, steps_per_epoch
from .assess import assess
from .ending import exit_if, finish, record_divergence
from .focus import focus_logged
from .objectives import Objective, classification
from .options import TrainingOptions
from .run import Run, ended
from .state import RunState
from .steps import sums, take_step

if TYPE_CHECKING:
    from evaluate import Metric


def train(
    accelerator: Accelerator,
    model: PreTrainedModel,
    options: TrainingOptions,
    run: Run,
    *,
    train_rows: Rows,
    eval_rows: Rows,
    objective: Objective = classification,
    metrics: Sequence[type[Metric]] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> dict[str, Any]:
    """Train one model to the end of its run, continuing from the checkpoints in its folder if there are any.

    A run that ended because it had its epochs leaves its last checkpoint, from which it goes on if it is to have more.

    SIGTERM and Ctrl-C are answered after the running step: a checkpoint is written, and the process exits with status
    143 or 130.

    Args:
        accelerator: of Accelerate; one for all runs.
        model: with its initial weights.
        options: how to train; filled (:meth:`TrainingOptions.filled`).
        run: name, attention (or schedule of attentions), seed and folder. Its log gets a record of kind "epoch" per
            epoch, "eval" every ``eval_steps``, "step" every ``logging_steps``, "focus" every ``log_focus``, and
            "diverged" with the rows of the batch if loss or gradient stop being finite, which ends the run and leaves
            the batch in ``diverged/``.
        train_rows, eval_rows: rows to train on, and held-out ones to evaluate on after every epoch.
        objective: what a step minimizes.
        metrics: what to compute of the held-out rows besides loss and accuracy; see :func:`evaluate`.
        tokenizer: saved with the models.

    Returns:
        ``run``, ``attention``, ``seed``, ``last_attention`` (the one of the last step), ``status`` ("converged",
        "finished" or "diverged"), ``reached`` (epoch, step and seconds at which the target was reached, or None),
        ``sessions`` (see :class:`Progress`), ``back_ends`` that computed its mechanisms, and the fields of the last
        evaluation's record.

    Raises:
        ValueError: checkpoints that cannot be used, or options that are not filled.
    """
    options.check_filled()
    if (result := ended(run, options, steps_per_epoch(len(train_rows), options.batch_size))) is not None:
        return result
    state = RunState(accelerator, model, options, run, train_rows, eval_rows, objective, metrics, tokenizer)
    with stop_noted() as asked_to_stop, state.checkpoints.explain_full_disk():
        while not (state.is_over() or state.diverged):
            _train_epoch(state, asked_to_stop)
            if state.at_end_of_epoch():
                state.progress.epoch += 1
                assess(state, "epoch", state.progress.epoch)
                stop = first(sums(accelerator, *asked_to_stop()))  # it may have come during the evaluation
                state.progress.begin_epoch()
                state.save()
                exit_if(state, stop)
    return finish(state)


def _train_epoch(state: RunState, asked_to_stop: Callable[[], list[bool]]) -> None:
    """Take the steps that are left of an epoch, or fewer where the run is over, diverges or is stopped before."""
    options, progress = state.options, state.progress
    state.model.train()
    state.clock.start()
    for batch in state.batches():
        with focus_logged(state):
            step = take_step(state, batch, asked_to_stop)
        if state.diverged:
            record_divergence(state, batch, step)
            return
        if _is_due(options.logging_steps, progress.step):
            loss = step.loss / batch.units
            state.record("step", epoch=progress.epoch + 1, train_loss=loss, learning_rate=state.learning_rate)
            state.display.loss(loss)
        if state.at_end_of_epoch():
            return
        if _is_due(options.eval_steps, progress.step):
            assess(state, "eval", progress.epoch + progress.position / state.length)
            state.clock.start()
            if state.is_over():
                return
        if step.stop or _is_due(options.save_steps, progress.step):
            state.save()
            exit_if(state, step.stop)
            state.clock.start()


def _is_due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
