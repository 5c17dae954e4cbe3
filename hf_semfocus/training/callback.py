"""The schedules of attention of this library's recipes, for Transformers' ``Trainer`` and those built on it."""

from __future__ import annotations

from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .schedules import FocusSchedule


class AttentionSchedule(TrainerCallback):
    """Changes the attention of a model while a ``Trainer`` trains it.

        Trainer(model, arguments, callbacks=[AttentionSchedule("sdpa@50%>topk_sparse:k=8")], ...)

    The attention depends on the number of the optimizer step alone, so a training that is resumed from a checkpoint
    goes on as it was, with or without PEFT. Evaluated and saved is what the last step used; with
    ``load_best_model_at_end``, the best model has the attention of its own last step again.

    Args:
        schedule: names, each but the last with the step, or the share of the run in percent, at which it ends:
            ``sdpa@200>topk_sparse:k=32@50%>topk_sparse:k=8`` is full attention for 200 steps, 32 keys until half of
            the run, and 8 keys from there on.

    Raises:
        ValueError: not a schedule; or, before the first step, phases that do not follow each other, or a name that
            the model does not take.
    """

    def __init__(self, schedule: str):
        self.schedule = FocusSchedule.parse(schedule)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Try every name, and take that of the first step."""
        first = self.schedule.at(state.global_step, state.max_steps)
        for name in self.schedule.names:
            switch(model, name)
        switch(model, first)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Take the attention of this step where it is another than that of the step before."""
        name = self.schedule.at(state.global_step, state.max_steps)
        if name != self.schedule.at(max(0, state.global_step - 1), state.max_steps):
            switch(model, name)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Give the best model the attention that it was evaluated with."""
        if args.load_best_model_at_end and state.best_global_step:
            switch(model, self.schedule.at(state.best_global_step - 1, state.max_steps))


def switch(model: nn.Module, name: str) -> None:
    """Give a model, however wrapped, another attention."""
    extract_model_from_parallel(model).set_attn_implementation(name)
