"""Metrics as classes, so that nothing is downloaded: ``evaluate.load`` would fetch a script from the Hub.

    metric = Accuracy(keep_in_memory=True)
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    metric.compute()  # {"accuracy": 0.5}

All are exact over batches of different sizes, as they get every prediction, or sums and counts. A metric is one class:
``columns`` declares its inputs, ``shown`` its results and how tables, plots and the Hub show them.
"""

import math

import evaluate
import numpy as np
from datasets import Features, Value

from .quantities import Quantity, quantities, register

__all__ = ["OF_CLASSES", "OF_TOKENS", "Accuracy", "MacroF1", "Matthews", "Perplexity", "quantities"]


class _Metric(evaluate.Metric):
    """Base of the metrics; a subclass declares ``columns`` and ``shown``."""

    columns: dict[str, str]
    shown: tuple[Quantity, ...] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register(*cls.shown)

    def _info(self) -> evaluate.MetricInfo:
        columns = ", ".join(f"{name} ({dtype})" for name, dtype in self.columns.items())
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description=f"Columns: {columns}.",
            features=Features({name: Value(dtype) for name, dtype in self.columns.items()}),
            format="numpy",
        )

    def _compute(self, **columns: np.ndarray) -> dict[str, float]:
        columns = {name: np.asarray(values) for name, values in columns.items()}
        if len(next(iter(columns.values()))) == 0:
            raise ValueError(f"{type(self).__name__}: no examples were added")
        return self._value(**columns)

    def _value(self, **columns: np.ndarray) -> dict[str, float]:
        raise NotImplementedError


class _ClassMetric(_Metric):
    columns = {"predictions": "int64", "references": "int64"}  # noqa: RUF012


class Accuracy(_ClassMetric):
    """Fraction of examples whose predicted class is the reference.

    ``compute(predictions, references)`` takes int64 ``[examples]`` and returns ``{"accuracy": float in [0, 1]}``.

    Raises:
        ValueError: there are no examples.
    """

    def _value(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"accuracy": float(np.mean(predictions == references))}


class MacroF1(_ClassMetric):
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN).

    The classes are those that occur among predictions or references.
    ``compute(predictions, references)`` takes int64 ``[examples]`` and returns ``{"macro_f1": float in [0, 1]}``.

    Raises:
        ValueError: there are no examples.
    """

    shown = (Quantity(field="eval_macro_f1", header="macro F1", label="held-out macro F1", hub="f1"),)

    def _value(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        table = _confusion(predictions, references)
        return {"macro_f1": float(np.mean(2 * np.diag(table) / (table.sum(axis=0) + table.sum(axis=1))))}


class Matthews(_ClassMetric):
    """Correlation of predicted and reference class, for any number of classes (Gorodkin 2004, R_K).

    ``compute(predictions, references)`` takes int64 ``[examples]`` and returns
    ``{"matthews_correlation": float in [-1, 1]}``; 0 if either side holds a single class.

    Raises:
        ValueError: there are no examples.
    """

    shown = (
        Quantity(
            field="eval_matthews_correlation",
            header="Matthews",
            label="held-out Matthews correlation",
            hub="matthews_correlation",
        ),
    )

    def _value(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        table = _confusion(predictions, references).astype(np.float64)
        total, predicted, actual = table.sum(), table.sum(axis=0), table.sum(axis=1)
        covariance = np.trace(table) * total - predicted @ actual
        scale = math.sqrt((total**2 - predicted @ predicted) * (total**2 - actual @ actual))
        return {"matthews_correlation": float(covariance / scale) if scale else 0.0}


class Perplexity(_Metric):
    """exp of the mean negative log-likelihood per token, from sums and counts of any number of batches.

    ``compute(nll, tokens)`` takes the summed negative log-likelihood in nats (float64) and the number of tokens
    (int64), one of each per batch, and returns ``{"perplexity": float, "nll": nats per token}``.

    Raises:
        ValueError: there are no tokens, or a count is negative.
    """

    columns = {"nll": "float64", "tokens": "int64"}  # noqa: RUF012
    shown = (
        Quantity(
            field="eval_perplexity",
            header="held-out ppl",
            label="held-out perplexity",
            digits=2,
            higher_is_better=False,
            hub="perplexity",
        ),
    )

    def _value(self, nll: np.ndarray, tokens: np.ndarray) -> dict[str, float]:
        if tokens.min() < 0 or tokens.sum() == 0:
            raise ValueError(f"Perplexity: tokens={tokens.tolist()}; expected counts with a positive sum")
        mean = math.fsum(nll) / int(tokens.sum())
        return {"perplexity": math.inf if mean > 709 else math.exp(mean), "nll": mean}


OF_CLASSES = (Accuracy, MacroF1, Matthews)
"""Metrics of classifiers."""
OF_TOKENS = (Perplexity,)
"""Metrics of language models."""


def _confusion(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Counts ``[reference, prediction]`` over the classes that occur."""
    classes, codes = np.unique(np.concatenate([references, predictions]), return_inverse=True)
    table = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(table, (codes[: len(references)], codes[len(references) :]), 1)
    return table
