"""Quantities of a run, and how tables, plots and the Hub show them.

Those of the training loop are here, those of a metric in its class in ``metrics.py``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of a run.

    Attributes:
        field: its field in results and records.
        header: its column header in tables.
        label: its name on axes and in sentences.
        digits: decimal places.
        higher_is_better: None if neither is better.
        hub: the Hub's name of the metric; None if it is not published.
    """

    field: str
    header: str
    label: str
    digits: int = 4
    higher_is_better: bool | None = True
    hub: str | None = None


SCORES = (
    Quantity(
        field="train_loss",
        header="train loss",
        label="training loss of the epoch so far (nats)",
        higher_is_better=False,
    ),
    Quantity(field="train_accuracy", header="train acc.", label="training accuracy"),
    Quantity(
        field="eval_loss", header="held-out loss", label="held-out loss (nats)", higher_is_better=False, hub="loss"
    ),
    Quantity(field="eval_accuracy", header="held-out acc.", label="held-out accuracy", hub="accuracy"),
)
OTHERS = (
    Quantity(field="tuned", header="fine-tuned with it", label="score of the fine-tuned model", higher_is_better=None),
    Quantity(field="steps_per_second", header="steps/s", label="training steps per second", digits=1),
    Quantity(field="tokens_per_second", header="tokens/s", label="tokens per second, padding included", digits=0),
    Quantity(field="peak_memory_mb", header="peak MB", label="peak memory (MB)", digits=0, higher_is_better=False),
)
_of_metrics: dict[str, Quantity] = {}


def register(*shown: Quantity) -> None:
    """Add the quantities of a metric, replacing those of the same field."""
    _of_metrics.update({quantity.field: quantity for quantity in shown})


def quantities() -> dict[str, Quantity]:
    """All quantities by field, in the order of table columns."""
    return {quantity.field: quantity for quantity in (*SCORES, *_of_metrics.values(), *OTHERS)}
