"""Multi-query associative recall: its labels against a reading of the words, its frequencies, its way into a loop."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import tiny_config
from task_solvers import solve
from transformers import AutoModelForCausalLM

from hf_semfocus.data import TokenRows, tasks
from hf_semfocus.data.tasks import cache
from hf_semfocus.data.tasks.base import REGISTRY, stream
from hf_semfocus.training import causal_lm

TASK = tasks.get("mqar")
KEYS, VALUES, BLANK = range(64), range(64, 128), 128


def draw(task=TASK, size=300, split="train", seed=tasks.DEFAULT_SEED):
    return task.generate(stream(task.name, split, seed), size)


def answers(words, pairs):
    """Position and answer of every query, found by looking for the same word in the pairs."""
    context, rest = words[: 2 * pairs], words[2 * pairs :]
    return {2 * pairs + i + 1: context[context.index(word) + 1] for i, word in enumerate(rest) if word.startswith("k")}


@pytest.mark.parametrize("settings", [{}, {"max_length": 32}, {"max_length": 130, "num_pairs": 3, "power": 1.0}])
def test_labels_are_the_values_of_the_queried_keys(settings):
    task = replace(TASK, **settings)
    rows, labels = draw(task)
    pairs = task.num_pairs
    for row, label in zip(rows, labels, strict=True):
        words = task.decode(row).split()
        expected = answers(words, pairs)
        assert len(words) == len(label) == task.max_length
        assert {i: task.vocabulary[t] for i, t in enumerate(label) if t != -100} == expected
        assert len(expected) == pairs
        assert {words[position] for position in expected} == {"_"}
        keys, values = words[0 : 2 * pairs : 2], words[1 : 2 * pairs : 2]
        assert len({*keys, *values}) == 2 * pairs
        assert [word[0] for word in words[: 2 * pairs]] == ["k", "v"] * pairs
        assert sorted(keys) == sorted(word for word in words[2 * pairs :] if word != "_")
        assert solve(task, row) == label
    assert all(type(token) is int for token in [*rows[0], *labels[0]])


def test_a_smaller_draw_is_the_beginning_of_a_larger_one():
    rows, labels = draw(size=20)
    assert draw(size=7) == (rows[:7], labels[:7])
    for other in ({"split": "test"}, {"seed": 1}):
        assert draw(size=20, **other)[0] != rows


def excess(counts, probabilities):
    """Chi-square of counts against exact probabilities, in standard deviations."""
    total = sum(counts.values())
    assert set(counts) <= set(probabilities)
    assert min(probabilities.values()) * total > 5
    chi = sum((counts[key] - p * total) ** 2 / (p * total) for key, p in probabilities.items())
    return (chi - len(probabilities) + 1) / np.sqrt(2 * (len(probabilities) - 1))


def test_keys_values_and_slots_have_their_frequencies():
    task = replace(TASK, max_length=12, num_pairs=2, power=0.3)
    rows = np.array(draw(task, 6000)[0])
    for column, tokens in enumerate((KEYS, VALUES, KEYS, VALUES)):
        assert excess(Counter(rows[:, column].tolist()), dict.fromkeys(tokens, 1 / 64)) < 4
    slots = [tuple(int(np.flatnonzero(row[4:] == key)[0]) // 2 for key in row[0:4:2]) for row in rows]
    weight = np.arange(1, 5) ** -0.7
    chances = {
        (a, b): weight[a] / weight.sum() * weight[b] / (weight.sum() - weight[a])
        for a in range(4)
        for b in range(4)
        if a != b
    }
    assert sum(chances.values()) == pytest.approx(1)
    assert excess(Counter(slots), chances) < 4


def asked(row, query):
    """The row with another token in the place of the first key's query."""
    place = row.index(row[0], 1)
    return [*row[:place], query, *row[place + 1 :]]


REFUSED = {
    "value first": lambda row: [row[1], row[0], *row[2:]],
    "a key twice": lambda row: [row[2], *row[1:]],
    "a value twice": lambda row: [row[0], row[3], *row[2:]],
    "a blank among the pairs": lambda row: [row[0], BLANK, *row[2:]],
    "an unknown key": lambda row: asked(row, next(key for key in KEYS if key not in row)),
    "no query": lambda row: asked(row, BLANK),
    "a query twice": lambda row: asked(row, row[2]),
    "a query too many": lambda row: [*row[:-2], row[0], BLANK],
    "a key twice and a query less": lambda row: [row[2], *asked(row, BLANK)[1:]],
    "a value for a query": lambda row: asked(row, row[1]),
    "a value for a blank": lambda row: [*row[:-1], row[1]],
    "a query in a blank's place": lambda row: [*row[:16], *row[17:], row[16]],
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_row(case):
    row = next(row for row in draw(size=50)[0] if row[16] != BLANK == row[-2])
    assert solve(TASK, row)
    with pytest.raises(ValueError, match=r"not a row of mqar: (expected a (new pair|query and a blank) at|7 queries)"):
        solve(TASK, REFUSED[case](row))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 2}, "max_length=2, expected 4 or more"),
        ({"max_length": 33}, "max_length=33, expected an even number"),
        ({"max_length": 30}, "num_pairs=8, expected 1 to 7"),
        ({"num_pairs": 0}, "num_pairs=0, expected 1 to 16"),
        ({"max_length": 400, "num_pairs": 65}, "num_pairs=65, expected 1 to 64"),
        ({"power": 0.0}, r"power=0\.0, expected a positive number"),
    ],
)
def test_impossible_sizes(settings, message):
    with pytest.raises(ValueError, match=f"mqar: {message}"):
        replace(TASK, **settings)


def test_the_cache_keeps_a_label_for_every_token(tmp_path):
    dataset = tasks.load("mqar", "test", seed=3, size=12, cache_dir=tmp_path)
    assert (dataset["input_ids"][:], dataset["labels"][:]) == draw(size=12, split="test", seed=3)
    assert dataset.features["labels"].feature.dtype == "int64"
    assert tasks.load("mqar", "test", seed=3, size=12, cache_dir=tmp_path)[:] == dataset[:]
    assert len(list((tmp_path / "hf_semfocus").iterdir())) == 1
    fewer = cache.cached(replace(TASK, num_pairs=4), "test", 3, 12, tmp_path)
    assert sum(label != -100 for label in fewer["labels"][0]) == 4
    assert {name: tasks.get(name).kind for name in tasks.names()} == dict.fromkeys(tasks.names(), "classification") | {
        "mqar": "causal_lm"
    }


def test_an_unknown_kind_is_refused():
    before = dict(REGISTRY)
    with pytest.raises(ValueError, match="'odd' has kind='regression'; expected one of classification, causal_lm"):
        tasks.register(type("Odd", (type(TASK),), {"name": "odd", "kind": "regression"}))
    assert before == REGISTRY


@dataclass
class Recall:
    """A causal model by hand: where the token was there before, it says what came after it."""

    def __call__(self, input_ids, use_cache, attention_mask=None):
        self.logits = torch.zeros(*input_ids.shape, TASK.vocab_size)
        for row, tokens in enumerate(input_ids.tolist()):
            for place, token in enumerate(tokens):
                if token in tokens[:place]:
                    self.logits[row, place, tokens[tokens.index(token) + 1]] = 50.0
        return self


def test_what_came_after_the_key_is_all_right():
    rows = TokenRows(*draw(size=40), TASK.pad_token_id)
    order = np.arange(40)
    loss, predictions, references = causal_lm(Recall(), rows.batch(order, order))
    correct = (predictions == references).sum()
    assert rows.units(order) == int(correct) == 40 * 8
    assert loss.item() == pytest.approx(0, abs=1e-4)
    assert rows.with_epoch(2) is rows


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rows_of_any_length_and_their_loss(family):
    rows, labels = zip(
        *[(r[0], la[0]) for r, la in (draw(replace(TASK, max_length=n), 1) for n in (64, 40, 32))], strict=True
    )
    data = TokenRows(rows, labels, TASK.pad_token_id)
    model = AutoModelForCausalLM.from_config(tiny_config(family, vocab_size=TASK.vocab_size)).eval()
    expected = np.zeros(2)
    with torch.no_grad():
        for row, label in zip(rows, labels, strict=True):
            logits = model(torch.tensor([row])).logits[0].double()
            for place, target in enumerate(label):
                if target != -100:
                    said = logits[place - 1]
                    expected += [-said.log_softmax(-1)[target], int(said.argmax()) == target]
        order = np.array([2, 0, 1])
        inputs = data.batch(order, whole_batch=order)
        loss, predictions, references = causal_lm(model, inputs)
        correct = (predictions == references).sum()
    assert [float(loss), int(correct)] == pytest.approx(expected.tolist(), rel=1e-5)
    assert len(data) == 3
    assert data.units(order) == 24 == (inputs["labels"] != -100).sum()
    assert inputs["input_ids"].shape == (3, 64)
    assert inputs["attention_mask"].sum(1).tolist() == [32, 64, 40]
    short = data.batch(order[:1], whole_batch=order[[0, 2]])
    assert short["input_ids"].tolist() == [list(rows[2]) + [TASK.pad_token_id] * 8]
    assert short["labels"].tolist() == [list(labels[2]) + [-100] * 8]
    assert "attention_mask" not in TokenRows(rows[:1] * 2, labels[:1] * 2, 0).batch(order[1:], order[1:])


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([], [], "0 sequences of 0 tokens, the shortest of 0, and 0 of 0 labels; expected"),
        ([[1, 2], []], [[-100, 2], []], "2 sequences of 2 tokens, the shortest of 0"),
        ([[1, 2]], [[2]], "1 sequences of 2 tokens, the shortest of 2, and 1 of 1 labels; expected a label for every"),
        ([[1, 2], [1, 2]], [[-100, 2], [1, -100]], "example 2 has no label after its first token; expected one"),
    ],
)
def test_labels_that_do_not_fit(rows, labels, message):
    with pytest.raises(ValueError, match=message):
        TokenRows(rows, labels, 0)
