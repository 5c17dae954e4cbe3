"""The schedules of attention of this library's recipes, for Transformers' ``Trainer`` and those built on it."""

from __future__ import annotations

from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .grammar import Attention
from .schedules import FocusSchedule


class AttentionSchedule(TrainerCallback):
    """Changes the attention of a model while a ``Trainer`` trains it.

        Trainer(model, arguments, callbacks=[AttentionSchedule("sdpa@50%>topk_sparse:k=8")], ...)

    The attention depends on the number of the optimizer step and ``TrainingArguments.seed`` alone, so a training that
    is resumed from a checkpoint goes on as it was, with or without PEFT. Evaluated and saved is what the last step
    used, of alternatives the last; with ``load_best_model_at_end``, the best model has the attention of its own last
    step again.

    Args:
        schedule: in the grammar of :mod:`hf_semfocus.training.grammar`, as the recipes' ``--attention``:
            ``sdpa@200>topk_sparse:k=32@50%>topk_sparse:k=8`` is full attention for 200 steps, 32 keys until half of
            the run, and 8 keys from there on.

    Raises:
        ValueError: not a schedule; or, before the first step, phases that do not follow each other, or a name that
            the model does not take.
    """

    def __init__(self, schedule: str):
        self.schedule = FocusSchedule.parse(schedule)
        self._now: Attention | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Try every attention, and take that of the first step."""
        self._now = None  # of another model, or one that was changed since
        first = self.schedule.at(state.global_step, state.max_steps, args.seed)
        for attention in (*self.schedule.attentions, first):
            self._take(model, attention)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Take the attention of this step."""
        self._take(model, self.schedule.at(state.global_step, state.max_steps, args.seed))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Take what the model is evaluated and saved with."""
        self._take(model, self.schedule.at(state.global_step - 1, state.max_steps))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Give the best model the attention that it was evaluated with."""
        if args.load_best_model_at_end and state.best_global_step:
            self._take(model, self.schedule.at(state.best_global_step - 1, state.max_steps))

    def _take(self, model: nn.Module, attention: Attention) -> None:
        """Give a model, however wrapped, another attention than it was given last."""
        if attention != self._now:
            self.schedule.switch(extract_model_from_parallel(model), attention)
            self._now = attention
