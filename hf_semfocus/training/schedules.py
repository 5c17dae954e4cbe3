"""What changes over the steps of a run: the learning rate, and the attention.

Both are functions of the step alone, so that a run which is resumed, on any number of processes, goes on as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, get_scheduler

from ..data.batches import steps_per_epoch
from ..hf.state import owns_state
from .options import TrainingOptions
from .progress import total_steps

_UNTIL = re.compile(r"([1-9]\d*)(%?)")


def learning_rate(options: TrainingOptions, steps: int) -> Callable[[int, int], float]:
    """The learning rate by step and epoch, both counted from 0.

    Args:
        options: ``learning_rate`` times Transformers' ``lr_scheduler`` with ``warmup_steps`` over ``steps``, times
            ``lr_decay`` per epoch.
        steps: of the whole run.

    Raises:
        ValueError: more steps of warm-up than steps.
    """
    warmup = round(options.warmup_steps * (steps if options.warmup_steps < 1 else 1))
    if warmup > steps:
        raise ValueError(f"warmup_steps={warmup} are more than the {steps} steps of a run")
    name = "constant_with_warmup" if options.lr_scheduler == "constant" else options.lr_scheduler
    unit = torch.optim.SGD([torch.zeros(1, device="cpu")], lr=1.0)
    [factor] = get_scheduler(name, unit, num_warmup_steps=warmup, num_training_steps=steps).lr_lambdas
    return lambda step, epoch: options.learning_rate * factor(step) * options.lr_decay**epoch


def bound_to_length(options: TrainingOptions, attentions: Iterable[str]) -> str | None:
    """What makes the first steps of a run depend on how many there are in all, in words; None if nothing does."""
    if options.lr_scheduler in ("linear", "cosine"):
        return f"lr_scheduler={options.lr_scheduler!r} falls until the last step"
    if options.warmup_steps and options.warmup_steps < 1:
        return f"warmup_steps={options.warmup_steps:g} is a share of all steps"
    for attention in attentions:
        if any(percent for *_, percent in FocusSchedule.parse(attention).phases):
            return f"attention={attention!r} changes at a share of all steps"
    return None


@dataclass(frozen=True)
class FocusSchedule:
    """The attention of a run by step: one name, or several with the step at which each ends.

    ``sdpa@200>topk_sparse:k=32@50%>topk_sparse:k=8`` is full attention for 200 steps, 32 keys until half of the run,
    and 8 keys from there on.

    Attributes:
        text: as it was written.
        phases: names with the step, or the share of the run in percent, at which each ends; None for the last.
    """

    text: str
    phases: tuple[tuple[str, int | None, bool], ...]

    @classmethod
    def parse(cls, text: str) -> FocusSchedule:
        """Read a schedule.

        Raises:
            ValueError: a phase but the last without its end, a last one with an end, or a later one with trainable
                parameters, which the optimizer would not know.
        """
        *before, last = text.split(">")
        phases = []
        for phase in before:
            name, _, until = phase.rpartition("@")
            match = _UNTIL.fullmatch(until)
            if not name or match is None:
                raise ValueError(f"attention={text!r}: when does {phase!r} end? expected NAME@STEP or NAME@50%")
            phases.append((name, int(match[1]), bool(match[2])))
        if not last or "@" in last:
            raise ValueError(f"attention={text!r}: {last!r} ends the schedule; expected a NAME without an end")
        made = cls(text, (*phases, (last, None, False)))
        first, *later = (name.partition(":")[0] for name in made.names)
        if late := [name for name in later if name != first and owns_state(name)]:
            raise ValueError(
                f"attention={text!r}: {late[0]} has trainable parameters; expected it from the first step"
            )
        return made

    @property
    def names(self) -> tuple[str, ...]:
        """Every attention there is, in order."""
        return tuple(name for name, _, _ in self.phases)

    def at(self, step: int, steps: int) -> str:
        """The attention of step number ``step``, from 0, of a run of ``steps``.

        Raises:
            ValueError: a phase ends before the one before it.
        """
        ends = [end * steps // 100 if percent else end for _, end, percent in self.phases[:-1]]
        if ends != sorted(ends):
            raise ValueError(f"attention={self.text!r}: its phases end at steps {ends}; expected increasing ones")
        return self.names[sum(end <= step for end in ends)]

    def apply(self, model: PreTrainedModel, step: int, steps: int) -> None:
        """Give the model the attention of that step; a single name is what the model was built with."""
        if len(self.phases) > 1 and model.config._attn_implementation != (name := self.at(step, steps)):
            model.set_attn_implementation(name)


def check_course(options: TrainingOptions, rows: int, attentions: Iterable[str]) -> None:
    """Refuse options that do not fit the length of a run, before it starts.

    Raises:
        ValueError: more warm-up than steps, or a schedule whose phases do not follow each other.
    """
    steps = total_steps(options, steps_per_epoch(rows, options.batch_size))
    learning_rate(options, steps)
    for attention in attentions:
        FocusSchedule.parse(attention).at(0, steps)
