"""How focused attention is while a model trains: medians of what :mod:`hf_semfocus.analysis` measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..analysis.capturing import watch
from ..analysis.records import Record
from ..messages import check_integer

if TYPE_CHECKING:
    from .state import RunState

MEASURED = ("dispersion", "kept_dispersion", "separation", "in_degree", "entropy", "kept_mass")
"""Quantities that cost no sorting of scores."""


class FocusProbe:
    """Measures the attention of one forward pass, with dropout as it trains; costs nothing otherwise.

    Args:
        model: without its wrappers, such as DDP.
        quantities: names of quantities; those that need kept keys are left out of dense attention.
    """

    def __init__(self, model: nn.Module, quantities: Sequence[str] = MEASURED):
        self.model, self.quantities = model, quantities
        self._record: Record | None = None

    def arm(self) -> None:
        """Measure the next forward pass, of a step's first part where there are several."""
        stack = ExitStack()

        def begin(*_: Any) -> None:
            self._record = stack.enter_context(watch(self.model, self.quantities))

        stack.callback(self.model.register_forward_pre_hook(begin).remove)
        stack.callback(self.model.register_forward_hook(lambda *_: stack.close(), always_call=True).remove)

    def take(self) -> dict[str, float]:
        """What was measured, over all processes, which must all call this; see :meth:`Record.medians`."""
        record, self._record = self._record, None
        return {} if record is None else record.gathered().medians()


@contextmanager
def focus_logged(state: RunState) -> Iterator[None]:
    """Measure the attention of the step that is taken meanwhile, if ``log_focus`` asks for it.

    The run's log gets a record of kind "focus", and the tracker the same. The seconds of such a step are those of a
    longer one.
    """
    every = state.options.log_focus
    if every is None or (state.progress.step + 1) % every:
        yield
        return
    probe = FocusProbe(state.unwrapped)
    probe.arm()
    yield
    if state.diverged:
        return
    medians = probe.take()
    fields = state.record("focus", epoch=state.progress.epoch + 1, **medians)
    tracked = {f"{state.run.name}/focus/{name}": fields[name] for name in medians if fields[name] is not None}
    state.accelerator.log(tracked, step=state.progress.step)


class FocusLogger(TrainerCallback):
    """Logs medians of dispersion, separation, in-degree, entropy and kept mass while a ``Trainer`` trains.

        trainer.add_callback(FocusLogger(trainer.log, every=50))

    Names are ``focus/dispersion`` over all layers and ``focus/dispersion/layer_0``; they go where the ``Trainer``
    reports.

    Args:
        log: takes names and values, such as the ``log`` of a ``Trainer``.
        every: optimizer steps from one measurement to the next.
        quantities: names in :data:`hf_semfocus.analysis.QUANTITIES`.

    Raises:
        ValueError: ``every`` is not a positive integer; or, before the first step, the model is to be compiled.
    """

    def __init__(self, log: Callable[[dict[str, float]], None], every: int = 50, quantities: Sequence[str] = MEASURED):
        self.log, self.every, self.quantities = log, check_integer("every", every, 1), quantities
        self._probe: FocusProbe | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse a model that will not show its attention."""
        if args.torch_compile:
            raise ValueError("torch_compile=True, but a compiled model does not show its attention to FocusLogger")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Measure this step if it is due."""
        if (state.global_step + 1) % self.every == 0:
            self._probe = FocusProbe(model, self.quantities)
            self._probe.arm()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log what was measured."""
        if self._probe is not None:
            found, self._probe = self._probe.take(), None
            self.log({f"focus/{name}": value for name, value in found.items()})
