"""What changes over the steps of a run: the learning rate, and the attention.

Both are functions of the step alone, so that a run which is resumed, on any number of processes, goes on as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedModel, get_scheduler

from ..data.batches import steps_per_epoch
from ..hf.state import owns_state
from ..hf.switching import set_layers
from ..mechanisms import base_name
from .grammar import Attention, Phase, phase
from .options import TrainingOptions
from .progress import total_steps


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
        if FocusSchedule.parse(attention).needs_length:
            return f"attention={attention!r} changes at a share of all steps"
    return None


@dataclass(frozen=True)
class FocusSchedule:
    """The attention of a run by step, in the grammar of :mod:`.grammar`.

    ``sdpa@200>topk_sparse:k=32@50%>topk_sparse:k=8`` is full attention for 200 steps, 32 keys until half of the run,
    and 8 keys from there on.

    Attributes:
        text: as it was written.
        phases: in order.
    """

    text: str
    phases: tuple[Phase, ...]

    @classmethod
    def parse(cls, text: str) -> FocusSchedule:
        """Read a schedule.

        Raises:
            ValueError: a phase but the last without its end, a last one with an end, or a later one with trainable
                parameters, which the optimizer would not know.
        """
        parts = text.split(">")
        try:
            phases = tuple(phase(part, last=number == len(parts)) for number, part in enumerate(parts, start=1))
        except ValueError as error:
            raise ValueError(f"attention={text!r}: {error}") from None
        made = cls(text, phases)
        inner = [name for attention in made.attentions for _, name in attention.layers]
        first, *later = (base_name(name) for name in (*made.names, *inner))
        if late := [name for name in later if name != first and owns_state(name)]:
            raise ValueError(
                f"attention={text!r}: {late[0]} has trainable parameters; expected it from the first step"
            )
        return made

    @cached_property
    def attentions(self) -> list[Attention]:
        """Every attention there is, in order; of a parameter that changes the first and the last value."""
        return [attention for part in self.phases for attention in part.attentions]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of :attr:`attentions`; those of single layers are left out."""
        return tuple(attention.name for attention in self.attentions)

    @cached_property
    def is_constant(self) -> bool:
        """Whether it is a single name."""
        return len(self.attentions) == 1 and not self.by_layer

    @cached_property
    def by_layer(self) -> bool:
        """Whether it says for every step which layers have an attention of their own."""
        return any(attention.layers for attention in self.attentions)

    @property
    def needs_length(self) -> bool:
        """Whether the attention of a step depends on the length of the run."""
        ends = [part.end for part in self.phases if part.end is not None]
        return self.phases[-1].moves or any(sign or percent for sign, _, percent in ends)

    def at(self, step: int, steps: int, seed: int | None = None) -> Attention:
        """The attention of step number ``step``, from 0, of a run of ``steps``.

        Args:
            step: number of the step.
            steps: of the whole run.
            seed: draws among alternatives; None takes the last, which a model is evaluated and saved with.

        Raises:
            ValueError: a phase ends before the one before it.
        """
        ends = [part.stop(steps) for part in self.phases]
        if ends[:-1] != sorted(ends[:-1]) or ends[0] < 0:
            raise ValueError(f"attention={self.text!r}: its phases end at steps {ends[:-1]}; expected increasing ones")
        number = sum(end <= step for end in ends[:-1])
        return self.phases[number].at(step, ends[number - 1] if number else 0, ends[number], seed)

    def apply(self, model: PreTrainedModel, step: int, steps: int, seed: int | None = None) -> None:
        """Give the model the attention of a step, see :meth:`at`; a single name is what the model was built with."""
        if not self.is_constant:
            self.switch(model, self.at(step, steps, seed))

    def switch(self, model: PreTrainedModel, attention: Attention) -> None:
        """Give the model one of :attr:`attentions`."""
        if model.config._attn_implementation != attention.name:
            model.set_attn_implementation(attention.name)
        if self.by_layer:
            set_layers(model, dict(attention.layers))


def check_course(options: TrainingOptions, rows: int, attentions: Iterable[str]) -> None:
    """Refuse options that do not fit the length of a run, before it starts.

    Raises:
        ValueError: more warm-up than steps, or a schedule whose phases do not follow each other.
    """
    steps = total_steps(options, steps_per_epoch(rows, options.batch_size))
    learning_rate(options, steps)
    for attention in attentions:
        FocusSchedule.parse(attention).at(0, steps)
