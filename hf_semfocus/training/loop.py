"""The training loop: one run of one model, from its first step or its last checkpoint to its end.

It reads top to bottom, and serves every recipe: what is trained is the model, what a step minimises is the
objective, and the rest is in ``TrainingOptions``.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.batches import Rows, epoch_order, iterate, steps_per_epoch
from ..files import write_json
from .checkpoint import Checkpoints
from .display import RunDisplay
from .evaluation import evaluate
from .log import MetricsLog
from .memory import peak_megabytes, reset_peak
from .objectives import Objective, classification
from .options import TrainingOptions
from .progress import Progress, is_over, total_steps
from .run import Run, ended
from .saving import save_batch, save_model
from .schedules import FocusSchedule, learning_rate
from .setup import back_ends, where
from .sharding import prepare_sharding, whole
from .signals import NAMES, exit_status, first, stop_noted
from .steps import backward, make_optimizer, make_ready, sums

if TYPE_CHECKING:
    from evaluate import Metric

TRACKED = ("train_loss", "train_accuracy", "learning_rate")


def train(
    accelerator: Accelerator,
    model: PreTrainedModel,
    train_rows: Rows,
    eval_rows: Rows,
    options: TrainingOptions,
    run: Run,
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
        train_rows, eval_rows: rows to train on, and held-out ones to evaluate on after every epoch.
        options: how to train; filled (:meth:`TrainingOptions.filled`).
        run: name, attention (or schedule of attentions), seed and folder. Its log gets a record of kind "epoch" per
            epoch, "eval" every ``eval_steps``, "step" every ``logging_steps``, and "diverged" with the rows of the
            batch if loss or gradient stop being finite, which ends the run and leaves the batch in ``diverged/``.
        objective: what a step minimises.
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
    length = steps_per_epoch(len(train_rows), options.batch_size)
    if (result := ended(run, options, length)) is not None:
        return result
    accelerator.free_memory()  # of the run before, whose state would be saved with this one's
    reset_peak(accelerator.device)
    make_ready(model, options)
    prepare_sharding(accelerator, model, options)
    model, optimizer = accelerator.prepare(model, make_optimizer(model, options))
    unwrapped = accelerator.unwrap_model(model)
    rank, world = accelerator.process_index, accelerator.num_processes
    # Dropout depends on the seed of the run alone, not on what was built before.
    set_seed(run.seed, device_specific=True)
    checkpoints = Checkpoints(run.folder)
    progress = checkpoints.load(accelerator, run.seed) or Progress()
    progress.begin_session(where(accelerator))
    log = MetricsLog(run.log, writes=accelerator.is_main_process)
    log.rewind(run.name, progress.records)
    steps = total_steps(options, length)
    rate, focus = learning_rate(options, steps), FocusSchedule.parse(run.attention)
    who = {"run": run.name, "attention": run.attention, "seed": run.seed}
    diverged, stop, resumed = False, None, progress.step > 0
    display = RunDisplay(
        f"run {run.number} of {run.of}, {run.name}",
        steps,
        length,
        progress.step,
        run.of - run.number if run.alone else 0,
        accelerator.is_main_process,
    )

    def record(kind: str, **fields: Any) -> dict[str, Any]:
        progress.records += 1
        return log.append({"kind": kind, **who, "step": progress.step, "seconds": progress.seconds, **fields})

    def assess(kind: str, epoch: float) -> None:
        """Evaluate, record it, and see whether it is the best and whether it reaches the target."""
        held_out = evaluate(accelerator, model, eval_rows, options.eval_batch_size, objective, metrics)
        peak = max(gather_object([peak_megabytes(accelerator.device)]))
        progress.peak_memory = max(progress.peak_memory, peak)
        progress.last = last = record(
            kind,
            epoch=epoch,
            train_loss=progress.loss / progress.units,
            train_accuracy=progress.correct / progress.units,
            **held_out,
            learning_rate=lr,
            steps_per_second=progress.step / progress.seconds,
            tokens_per_second=progress.tokens / progress.seconds,
            peak_memory_mb=progress.peak_memory,
        )
        log.sync()
        tracked = {name: last[name] for name in (*TRACKED, *held_out) if last[name] is not None}
        accelerator.log({f"{run.name}/{name}": value for name, value in tracked.items()}, step=progress.step)
        display.evaluated(last)

        if options.target_loss is not None:
            converged = last["eval_loss"] is not None and last["eval_loss"] <= options.target_loss
        else:
            target = options.target_accuracy
            converged = target is not None and kind == "epoch" and last["train_accuracy"] >= target
        if progress.reached is None and converged:
            progress.reached = {name: last[name] for name in ("epoch", "step", "seconds")}
        loss = last["eval_loss"]  # None if it was not finite
        score = last["eval_accuracy"] if options.best_by == "accuracy" else None if loss is None else -loss
        if score is not None and (progress.best is None or score > progress.best):
            progress.best = score
            save_model(accelerator, model, run.folder / "best", tokenizer)
        model.train()

    def exit_if(stop: int | None) -> None:
        if stop:
            display.close()
            by = f"stopped by {NAMES[stop]} at step {progress.step}"
            accelerator.print(f"{run.name}: {by}; --resume goes on from there", flush=True)
            accelerator.wait_for_everyone()
            accelerator.end_training()
            raise SystemExit(exit_status(stop))

    with stop_noted() as asked_to_stop, checkpoints.naming_the_last():
        while not is_over(progress, options, length):
            model.train()
            order = epoch_order(len(train_rows), run.seed, progress.epoch)
            rows = train_rows.with_epoch(progress.epoch)
            batches = iterate(
                rows,
                order,
                options.batch_size,
                progress.position,
                rank,
                world,
                accelerator.device,
                options.gradient_accumulation_steps,
            )
            clock = time.perf_counter()
            for batch in batches:
                lr = rate(progress.step, progress.epoch)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                focus.apply(unwrapped, progress.step, steps)
                loss, correct = backward(accelerator, model, batch, objective)
                norm = whole(accelerator.clip_grad_norm_(model.parameters(), options.max_grad_norm))
                loss, correct, norm, *came = sums(accelerator, loss, correct, norm, *asked_to_stop())
                stop = first(came)
                # A scaler deals with infinite gradients of float16 itself.
                diverged = not math.isfinite(loss) or (accelerator.scaler is None and not math.isfinite(norm))
                if diverged:
                    break
                optimizer.step()
                optimizer.zero_grad()

                now = time.perf_counter()
                # the first step after a resumption loads and compiles what was there before
                progress.seconds += progress.seconds / progress.step if resumed else now - clock
                clock, resumed = now, False
                progress.step += 1
                progress.position += 1
                progress.loss += loss
                progress.correct += correct
                progress.units += batch.units
                progress.tokens += batch.tokens
                display.step()
                if options.logging_steps and progress.step % options.logging_steps == 0:
                    record("step", epoch=progress.epoch + 1, train_loss=loss / batch.units, learning_rate=lr)
                    display.loss(loss / batch.units)
                if progress.position == length or progress.step == options.max_steps:
                    break  # and finish the epoch
                if options.eval_steps and progress.step % options.eval_steps == 0:
                    assess("eval", progress.epoch + progress.position / length)
                    clock = time.perf_counter()
                    if is_over(progress, options, length):
                        break
                if stop or (options.save_steps and progress.step % options.save_steps == 0):
                    log.sync()
                    checkpoints.save(accelerator, progress)
                    exit_if(stop)
                    clock = time.perf_counter()
            if diverged:
                what = {"train_loss": str(loss / batch.units), "gradient_norm": str(norm), "rows": batch.rows.tolist()}
                record("diverged", epoch=progress.epoch + 1, learning_rate=lr, **what)
                save_batch(accelerator, batch, run.folder / "diverged")
                break
            if progress.position == length or progress.step == options.max_steps:
                progress.epoch += 1
                assess("epoch", progress.epoch)
                stop = first(sums(accelerator, *asked_to_stop()))  # it may have come during the evaluation
                progress.begin_epoch()
                checkpoints.save(accelerator, progress)
                exit_if(stop)

    display.close()
    log.sync()
    save_model(accelerator, model, run.folder / "last", tokenizer)
    status = "diverged" if diverged else "finished" if progress.reached is None else "converged"
    last_attention = focus.at(max(0, progress.step - 1), steps)
    result = {**who, "last_attention": last_attention, "status": status, "reached": progress.reached}
    result |= {**(progress.last or {}), "sessions": progress.sessions, "back_ends": back_ends(focus.names)}
    if accelerator.is_main_process:
        write_json(run.folder / "result.json", result)
        # more epochs would go on from the last
        checkpoints.clear(keep=not diverged and not is_over(progress, replace(options, epochs=sys.maxsize), length))
    accelerator.wait_for_everyone()
    return result
