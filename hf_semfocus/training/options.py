"""What can be set about a training.

Options are dataclasses; a command adds its own beside ``TrainingOptions`` and reads them all with ``parse``.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from ..console import check_at_least, check_threads, imports, option
from .grammar import HELP


@dataclass
class TrainingOptions:
    """How to train, whatever the model, the data and the attention are.

    What is None by default depends on what is trained: a recipe sets it with :meth:`filled`.

    Raises:
        ValueError: a value outside its range.
    """

    output_dir: str | None = option(None, "where everything is written; the recipe has a default")
    resume: bool = option(False, "continue an interrupted output_dir: finished runs are kept, the rest is done")
    overwrite_output_dir: bool = option(False, "delete what output_dir holds and start anew")
    epochs: int | None = option(None, "passes over the training examples at most")
    max_steps: int | None = option(None, "stop every run after this many steps")
    batch_size: int | None = option(None, "examples per step, over all processes together")
    eval_batch_size: int | None = option(None, "examples per evaluation step, over all processes together")
    gradient_accumulation_steps: int = option(1, "compute a step's batch in this many parts; the result is the same")
    optimizer: Literal["sgd", "adamw"] | None = option(None, "sgd has no momentum")
    learning_rate: float | None = option(None, "highest learning rate")
    lr_decay: float | None = option(None, "factor on the learning rate after every epoch")
    lr_scheduler: Literal["constant", "linear", "cosine", "inverse_sqrt"] | None = option(
        None, "course of the learning rate over the steps of a run, as in Transformers"
    )
    warmup_steps: float | None = option(None, "steps over which the learning rate rises from 0; below 1, their share")
    weight_decay: float = option(0.0, "decoupled weight decay of adamw, L2 penalty of sgd")
    max_grad_norm: float | None = option(None, "the gradient is scaled down to this norm; inf never scales")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(None, "precision; by default as launched")
    gradient_checkpointing: bool = option(False, "compute activations again in the backward pass to save memory")
    torch_compile: bool = option(False, "compile the model with torch.compile")
    target_accuracy: float | None = option(None, "a run has converged at this training accuracy; above 1 for never")
    target_loss: float | None = option(None, "or at this held-out loss, in nats; replaces target_accuracy")
    epochs_after_target: int | None = option(None, "epochs to go on after convergence; 0 stops at once")
    best_by: Literal["accuracy", "loss"] | None = option(None, "which held-out score decides what best/ holds")
    eval_steps: int | None = option(None, "also evaluate every so many steps, not only every epoch")
    save_steps: int | None = option(None, "also save a checkpoint every so many steps, not only every epoch")
    logging_steps: int | None = option(None, "also record the training loss every so many steps")
    log_focus: int | None = option(None, "also record how focused attention is every so many steps")
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = option("none", "experiment tracker")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_batch_size", "gradient_accumulation_steps", "max_steps"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("eval_steps", "save_steps", "logging_steps", "log_focus"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("epochs_after_target", self.epochs_after_target, 0)
        for name in ("learning_rate", "lr_decay", "weight_decay", "warmup_steps"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value!r}; expected a number of at least 0")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm={self.max_grad_norm!r}; expected a positive number or inf")
        if self.target_accuracy is not None and not self.target_accuracy > 0:
            raise ValueError(f"target_accuracy={self.target_accuracy!r}; expected a positive share, above 1 for never")
        if self.target_loss is not None and not self.target_loss > 0:
            raise ValueError(f"target_loss={self.target_loss!r}; expected a positive number of nats")
        if self.log_focus and self.torch_compile:
            raise ValueError(f"log_focus={self.log_focus!r} with torch_compile=True; expected one of them at most")
        if self.resume and self.overwrite_output_dir:
            raise ValueError("resume and overwrite_output_dir contradict each other; expected one of them at most")

    def filled(self, **defaults: Any) -> TrainingOptions:
        """The same options with ``defaults`` in place of those that are None."""
        return dataclasses.replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})

    def check_filled(self) -> None:
        """Refuse options that a training cannot do without.

        Raises:
            ValueError: names the first that is None.
        """
        for name in NEEDED:
            if getattr(self, name) is None:
                raise ValueError(f"{name}=None; expected a value")


@dataclass
class ComparisonOptions:
    """Which runs are compared, and on how many threads.

    Raises:
        ValueError: a value outside its range, or given twice.
    """

    attention: list[str] = option([], HELP)  # noqa: RUF009
    seeds: list[int] = option([153476998], "seeds of the data and of the runs")  # noqa: RUF009
    imports: list[str] = imports()  # noqa: RUF009
    workers: int | None = option(
        None, "runs side by side, one CPU thread each; by default one per core for small models on a CPU, else 1"
    )
    part: str | None = option(None, "train the only run given, as N/M of the comparison that another process makes")
    cpu_threads: int | None = option(
        None, "threads per process on a CPU; its cores by default, at most 4; give 1 where others use them too"
    )

    def __post_init__(self) -> None:
        check_at_least("workers", self.workers, 1)
        check_threads(self.cpu_threads)
        if self.part and (len(self.attention), len(self.seeds)) != (1, 1):
            raise ValueError(
                f"part={self.part!r} with attention={self.attention}, seeds={self.seeds}; expected one of each"
            )
        if self.part and not re.fullmatch(r"\d+/\d+", self.part):
            raise ValueError(f"part={self.part!r}; expected N/M, such as 2/6")
        for seed in self.seeds:
            check_at_least("seeds", seed, 0)
        for name in ("attention", "seeds", "imports"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={values!r}; expected every one once")


NEEDED = ("epochs", "batch_size", "eval_batch_size", "optimizer", "learning_rate", "lr_decay", "lr_scheduler")
NEEDED += ("warmup_steps", "max_grad_norm", "epochs_after_target", "best_by")
