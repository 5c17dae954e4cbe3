"""What a run trains with, among it the optimizer, and where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.batches import Batch, Rows, epoch_order, iterate, steps_per_epoch
from ..memory import reset_peak
from .checkpoint import Checkpoints
from .display import RunDisplay
from .log import MetricsLog
from .objectives import Objective
from .options import TrainingOptions
from .progress import Progress, StepClock, is_over, total_steps
from .run import Run
from .schedules import FocusSchedule, learning_rate
from .setup import where
from .sharding import prepare_sharding

if TYPE_CHECKING:
    from evaluate import Metric


@dataclass
class RunState:
    """A run while it trains, as its newest checkpoint left it; the arguments are those of :func:`train`.

    Attributes:
        model, optimizer: prepared by Accelerate; unwrapped: the model as it was given.
        length, steps: steps of an epoch, and of the run.
        rate, focus: learning rate and attention by step.
        learning_rate: of the last step.
        progress, clock, checkpoints, log, display: of this run.
        diverged: whether loss or gradient have stopped being finite.
    """

    accelerator: Accelerator
    model: PreTrainedModel
    options: TrainingOptions
    run: Run
    train_rows: Rows
    eval_rows: Rows
    objective: Objective
    metrics: Sequence[type[Metric]]
    tokenizer: PreTrainedTokenizerBase | None

    def __post_init__(self) -> None:
        accelerator, options, run = self.accelerator, self.options, self.run
        accelerator.free_memory()  # of the run before, whose state would be saved with this one's
        reset_peak(accelerator.device)
        make_ready(self.model, options)
        prepare_sharding(accelerator, self.model, options)
        self.model, self.optimizer = accelerator.prepare(self.model, make_optimizer(self.model, options))
        self.unwrapped = accelerator.unwrap_model(self.model)
        # Dropout depends on the seed of the run alone, not on what was built before.
        set_seed(run.seed, device_specific=True)
        self.checkpoints = Checkpoints(run.folder)
        self.progress = self.checkpoints.load(accelerator, run.seed) or Progress()
        self.progress.begin_session(where(accelerator))
        self.clock = StepClock(self.progress)
        self.log = MetricsLog(run.log, writes=accelerator.is_main_process)
        self.log.rewind(run.name, self.progress.records)
        self.length = steps_per_epoch(len(self.train_rows), options.batch_size)
        self.steps = total_steps(options, self.length)
        self.rate, self.focus = learning_rate(options, self.steps), FocusSchedule.parse(run.attention)
        self.learning_rate, self.diverged = 0.0, False
        self.display = RunDisplay(
            f"run {run.number} of {run.of}, {run.name}",
            self.steps,
            self.length,
            done=self.progress.step,
            after=run.of - run.number if run.alone else 0,
            show=accelerator.is_main_process,
        )

    @property
    def who(self) -> dict[str, Any]:
        """Which run it is, as its records and its result say."""
        return {"run": self.run.name, "attention": self.run.attention, "seed": self.run.seed}

    def is_over(self) -> bool:
        """Whether the run has had its epochs, its steps, or those after convergence."""
        return is_over(self.progress, self.options, self.length)

    def at_end_of_epoch(self) -> bool:
        """Whether the running epoch has had its steps, or the run all of its own."""
        return self.progress.position == self.length or self.progress.step == self.options.max_steps

    def batches(self) -> Iterator[Batch]:
        """This process's shares of the batches that are left of the running epoch."""
        return iterate(
            self.train_rows.with_epoch(self.progress.epoch),
            epoch_order(len(self.train_rows), self.run.seed, self.progress.epoch),
            self.options.batch_size,
            self.progress.position,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            self.accelerator.device,
            self.options.gradient_accumulation_steps,
        )

    def record(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Log a record, and return it as it is written."""
        self.progress.records += 1
        place = {"step": self.progress.step, "seconds": self.progress.seconds}
        return self.log.append({"kind": kind, **self.who, **place, **fields})

    def save(self) -> None:
        """Write a checkpoint, and have the records on the disk that it counts; every process must call it."""
        self.log.sync()
        self.checkpoints.save(self.accelerator, self.progress)


def make_ready(model: PreTrainedModel, options: TrainingOptions) -> None:
    """Switch on what the options ask of a model before Accelerate prepares it.

    Raises:
        ValueError: a model that cannot compute its activations again.
    """
    if options.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise ValueError(f"gradient_checkpointing=True, but {type(model).__name__} does not support it")
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    if options.torch_compile:
        model.compile()


def make_optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """SGD without momentum, or AdamW, over all parameters that are trained."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[options.optimizer]
    return kind(parameters, lr=options.learning_rate, weight_decay=options.weight_decay, foreach=True)
