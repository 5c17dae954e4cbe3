"""How focused attention is while a model trains: medians of what :mod:`hf_semfocus.analysis` measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .state import RunState


@contextmanager
def focus_logged(state: RunState) -> Iterator[None]:
    """Measure the attention of the step that is taken meanwhile, if ``log_focus`` asks for it.

    The run's log gets a record of kind "focus", and the tracker the same, with the median of every quantity over all
    queries (or keys), heads and layers. The seconds of such a step are those of a longer one.
    """
    every = state.options.log_focus
    if every is None or (state.progress.step + 1) % every:
        yield
        return
    from ..analysis import capture

    with capture(state.unwrapped) as record:
        yield
    if state.diverged:
        return
    record = record.gathered(state.accelerator)
    names = sorted({quantity for *_, quantity in record.sketches})
    medians = {name: float(record.pooled(name).quantiles([0.5])[0]) for name in names}
    fields = state.record("focus", epoch=state.progress.epoch + 1, **medians)
    tracked = {f"{state.run.name}/focus/{name}": fields[name] for name in names if fields[name] is not None}
    state.accelerator.log(tracked, step=state.progress.step)
