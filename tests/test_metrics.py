"""Metrics against sums written out by hand, in one batch and in several of different sizes."""

import math
import random

import numpy as np
import pytest
import torch

from hf_semfocus import quantities as quantities_module
from hf_semfocus.metrics import Accuracy, MacroF1, Matthews, Perplexity, _ClassMetric
from hf_semfocus.quantities import Quantity, quantities
from hf_semfocus.reports import report


def f1(predictions, references):
    pairs = list(zip(predictions, references, strict=True))
    scores = []
    for c in sorted(set(predictions) | set(references)):
        hit = sum(p == c and r == c for p, r in pairs)
        precision = hit / n if (n := sum(p == c for p, _ in pairs)) else 0.0
        recall = hit / n if (n := sum(r == c for _, r in pairs)) else 0.0
        scores.append(2 * precision * recall / (precision + recall) if hit else 0.0)
    return sum(scores) / len(scores)


def correlation(predictions, references):
    """Covariance of one-hot columns, summed over classes, over the geometric mean of the variances."""
    classes = sorted(set(predictions) | set(references))
    x = np.array([[p == c for c in classes] for p in predictions], dtype=float)
    y = np.array([[r == c for c in classes] for r in references], dtype=float)
    x, y = x - x.mean(0), y - y.mean(0)
    scale = math.sqrt((x * x).sum() * (y * y).sum())
    return (x * y).sum() / scale if scale else 0.0


def accuracy(predictions, references):
    return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(predictions)


CASES = [(Accuracy, "accuracy", accuracy), (MacroF1, "macro_f1", f1), (Matthews, "matthews_correlation", correlation)]


@pytest.mark.parametrize(("metric", "key", "oracle"), CASES)
@pytest.mark.parametrize("classes", [2, 5])
def test_random_predictions(metric, key, oracle, classes):
    rng = random.Random(classes)
    references = [rng.randrange(classes) for _ in range(53)]
    predictions = [r if rng.random() < 0.4 else rng.randrange(classes + 1) for r in references]
    expected = pytest.approx(oracle(predictions, references), abs=1e-12)
    assert metric(keep_in_memory=True).compute(predictions=predictions, references=references) == {key: expected}
    batches = metric(keep_in_memory=True)
    for start, stop in ((0, 20), (20, 40), (40, 53)):
        batches.add_batch(predictions=torch.tensor(predictions[start:stop]), references=references[start:stop])
    assert batches.compute() == {key: expected}


@pytest.mark.parametrize(
    ("metric", "key", "values"),
    [
        (Accuracy, "accuracy", (1.0, 0.0)),
        (MacroF1, "macro_f1", (1.0, 0.0)),
        (Matthews, "matthews_correlation", (1, -1)),
    ],
)
def test_known_answers(metric, key, values):
    references = [0, 1, 1, 0]
    for predictions, value in ((references, values[0]), ([1, 0, 0, 1], values[1])):
        assert metric(keep_in_memory=True).compute(predictions=predictions, references=references)[key] == value


def test_matthews_of_one_class_is_zero():
    metric = Matthews(keep_in_memory=True)
    assert metric.compute(predictions=[1, 1, 1], references=[0, 1, 1]) == {"matthews_correlation": 0.0}


def test_perplexity_weighs_tokens_not_batches():
    metric = Perplexity(keep_in_memory=True)
    nll = [[0.3, 2.0, 1.1], [5.0], [0.25, 0.25]]
    for batch in nll:
        metric.add_batch(nll=[sum(batch)], tokens=[len(batch)])
    mean = sum(map(sum, nll)) / 6
    assert metric.compute() == {"perplexity": pytest.approx(math.exp(mean)), "nll": pytest.approx(mean)}


def test_perplexity_of_a_uniform_guess_is_the_vocabulary():
    result = Perplexity(keep_in_memory=True).compute(nll=[7 * math.log(50), 0.0], tokens=[7, 0])
    assert result["perplexity"] == pytest.approx(50)
    assert Perplexity(keep_in_memory=True).compute(nll=[1e6], tokens=[1])["perplexity"] == math.inf


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="Accuracy: no examples were added"):
        Accuracy(keep_in_memory=True).compute(predictions=[], references=[])
    with pytest.raises(ValueError, match=r"tokens=\[0\]; expected counts with a positive sum"):
        Perplexity(keep_in_memory=True).compute(nll=[0.0], tokens=[0])


def test_a_new_metric_is_one_class_that_tables_follow(tmp_path, monkeypatch):
    monkeypatch.setattr(quantities_module, "_of_metrics", dict(quantities_module._of_metrics))

    class ErrorRate(_ClassMetric):
        shown = (
            Quantity(
                field="eval_error",
                header="errors",
                label="held-out errors",
                digits=1,
                higher_is_better=False,
                hub="wer",
            ),
        )

        def _value(self, predictions, references):
            return {"error": float(np.mean(predictions != references))}

    assert ErrorRate(keep_in_memory=True).compute(predictions=[1, 0], references=[1, 1]) == {"error": 0.5}
    assert quantities()["eval_error"].hub == "wer"
    run = {"attention": "sdpa", "seed": 1, "eval_accuracy": 0.5, "eval_error": 0.5, "steps_per_second": 2.0}
    header, _, line = report.table([run]).splitlines()
    assert [cell.strip() for cell in header.split("|")[2:-1]] == ["held-out acc.", "errors", "steps/s"]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["0.5000", "0.5", "2.0"]


def test_every_published_quantity_says_which_way_it_is_better():
    assert all(quantity.higher_is_better is not None for quantity in quantities().values() if quantity.hub)
    assert {quantity.hub for quantity in quantities().values()} >= {"accuracy", "f1", "perplexity", "loss"}
