"""How a run ends: it is over, it diverged, or it was stopped by a signal."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from ..console.signals import NAMES, exit_status
from ..data.batches import Batch
from ..files import write_json
from .progress import is_over
from .saving import save_batch, save_model
from .setup import back_ends
from .state import RunState
from .steps import Step


def record_divergence(state: RunState, batch: Batch, step: Step) -> None:
    """Record the step whose loss or gradient was not finite, and keep its batch in ``diverged/``."""
    what = {"train_loss": str(step.loss / batch.units), "gradient_norm": str(step.norm), "rows": batch.rows.tolist()}
    state.record("diverged", epoch=state.progress.epoch + 1, learning_rate=state.learning_rate, **what)
    save_batch(state.accelerator, batch, state.run.folder / "diverged")


def exit_if(state: RunState, stop: int | None) -> None:
    """End the process, once its state is saved, if a signal asked for it.

    Raises:
        SystemExit: with the status of that signal.
    """
    if not stop:
        return
    state.display.close()
    by = f"stopped by {NAMES[stop]} at step {state.progress.step}"
    state.accelerator.print(f"{state.run.name}: {by}; --resume goes on from there", flush=True)
    state.accelerator.wait_for_everyone()
    state.accelerator.end_training()
    raise SystemExit(exit_status(stop))


def finish(state: RunState) -> dict[str, Any]:
    """Save the last model and the result, which is returned; of the checkpoints, the last stays for more epochs."""
    accelerator, progress, folder = state.accelerator, state.progress, state.run.folder
    state.display.close()
    state.log.sync()
    save_model(accelerator, state.model, folder / "last", state.tokenizer)
    result = {
        **state.who,
        "last_attention": state.focus.at(max(0, progress.step - 1), state.steps).name,
        "status": "diverged" if state.diverged else "finished" if progress.reached is None else "converged",
        "reached": progress.reached,
        **(progress.last or {}),
        "sessions": progress.sessions,
        "back_ends": back_ends(state.focus.names),
    }
    if accelerator.is_main_process:
        write_json(folder / "result.json", result)
        endless = replace(state.options, epochs=sys.maxsize)
        state.checkpoints.clear(keep=not state.diverged and not is_over(progress, endless, state.length))
    accelerator.wait_for_everyone()
    return result
