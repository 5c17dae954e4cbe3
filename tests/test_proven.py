"""Proven constants: random scores and moves never exceed them, and those said to be exact are reached."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_semfocus import analysis

SLACK = 1 + 1e-9
SEEDS = st.integers(0, 2**32 - 1)
DELTAS = st.floats(0.01, 12.0)


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def topk(scores, k):
    """Weights of top-k softmax, the kept keys, their dispersion and the separation."""
    order = np.argsort(-scores)
    kept, weights = order[:k], np.zeros(len(scores))
    weights[kept] = softmax(scores[kept])
    return weights, set(kept.tolist()), np.ptp(scores[kept]), scores[kept].min() - scores[order[k:]].max()


def within(random, keys, delta):
    """Scores of at most that dispersion; often at its ends, where constants are reached."""
    scores = delta * random.random(keys)
    if random.random() < 0.5:
        scores = delta * random.integers(0, 2, keys)
    return scores + random.normal()


def l1(values):
    return np.abs(values).sum()


@given(SEEDS, DELTAS, st.integers(1, 50))
def test_softmax_never_moves_more_than_its_constant(seed, delta, keys):
    random = np.random.default_rng(seed)
    before = within(random, keys, delta)
    after = within(random, keys, delta)
    if random.random() < 0.5:  # near, with the same dispersion at most
        after = before + 1e-3 * random.random() * (after - before)
    moved = l1(softmax(after) - softmax(before))
    constant = analysis.softmax_constant(delta, keys)
    assert moved <= constant * l1(after - before) * SLACK + 1e-12
    assert moved <= np.abs(after - before).max() * SLACK + 1e-12
    assert constant <= analysis.softmax_bound(delta, keys) * SLACK
    assert softmax(before).max() <= analysis.largest_weight(delta, keys) * SLACK


@pytest.mark.parametrize(("delta", "keys"), [(0.5, 2), (0.1, 40), (2.0, 40), (3.6, 40), (1e-9, 40)])
def test_softmax_constant_is_reached(delta, keys):
    scores = np.zeros(keys)
    scores[0] = delta
    if math.exp(delta) > keys - 1:
        scores[0] = math.log(keys - 1)
    step = np.zeros(keys)
    step[0] = -min(1e-6, delta / 2)
    moved = l1(softmax(scores + step) - softmax(scores)) / l1(step)
    assert moved == pytest.approx(analysis.softmax_constant(delta, keys), rel=1e-4)


def test_known_values_and_why_the_factor_of_2_is_needed():
    assert analysis.softmax_constant(0.0, 40) == pytest.approx(0.04875)
    assert analysis.softmax_constant(0.0, 40) > math.exp(0.0) / 40
    assert analysis.softmax_constant(math.log(39), 40) == analysis.softmax_constant(1e3, 40) == 0.5
    assert analysis.softmax_bound(1e3, 40) == 0.5
    assert analysis.softmax_constant(7.0, 1) == 0.0
    assert analysis.largest_weight(1e3, 40) == 1.0


@given(SEEDS, DELTAS, st.integers(1, 9))
def test_jump_at_a_border(seed, delta, k):
    random = np.random.default_rng(seed)
    kept = within(random, k, delta)
    before = np.append(kept, kept.min())  # the last key is dropped, and as high as the lowest kept one
    lowest = int(kept.argmin())
    weights = softmax(kept)
    first, second = np.append(weights, 0.0), np.append(weights, 0.0)
    second[lowest], second[-1] = 0.0, weights[lowest]
    assert l1(first - second) <= analysis.border_jump(np.ptp(kept), k) * SLACK
    top = np.zeros(k)
    top[0] = delta
    assert 2 * softmax(top).min() == pytest.approx(2.0 if k == 1 else analysis.border_jump(delta, k))
    near, *_ = topk(before + 1e-12 * np.eye(k + 1)[-1], k)
    assert l1(near - first) == pytest.approx(l1(second - first), abs=1e-9)


@settings(max_examples=1000)
@given(SEEDS, st.floats(0.0, 6.0), st.floats(1e-3, 4.0), st.integers(1, 8))
def test_topk_never_moves_more_than_its_constant(seed, delta, separation, k):
    random = np.random.default_rng(seed)
    keys = k + int(random.integers(1, 6))

    def scores(kept):
        made = np.empty(keys)
        lowest = random.normal() * random.choice([0.0, 1.0])
        made[kept] = lowest + within(random, k, delta) * random.choice([0.0, 1.0])
        made[kept] += lowest - made[kept].min()
        dropped = np.setdiff1d(np.arange(keys), kept)
        made[dropped] = lowest - separation - random.random(len(dropped)) * random.choice([0.0, 1.0])
        return made

    kept = random.permutation(keys)[:k]
    other = kept.copy()
    swapped = int(random.integers(0, min(k, keys - k) + 1))
    other[:swapped] = random.permutation(np.setdiff1d(np.arange(keys), kept))[:swapped]
    before, after = scores(kept), scores(other)
    (p, mine, own, gap), (q, theirs, its, other_gap) = topk(before, k), topk(after, k)
    own, gap = max(own, its), min(gap, other_gap)
    changed = len(mine - theirs)
    assert changed == swapped
    moved, way = l1(p - q), l1(before - after)
    assert way * SLACK >= 2 * changed * gap
    assert moved <= analysis.topk_constant(own, gap, k) * way * SLACK + 1e-12
    assert moved <= max(1.0, 2 / gap) * np.abs(before - after).max() * SLACK + 1e-12


def test_topk_constant_beside_the_papers_form():
    for delta in (0.0, 1.0, 5.0):
        for k in (2, 5):
            for separation in (1e-6, 0.1, 1.0):
                form = math.exp(delta) / k * (1 + 1 / separation)
                assert analysis.topk_constant(delta, separation, k) <= form * SLACK
    # for large separations the constant is that of the kept softmax, which the paper's form falls below
    assert analysis.topk_constant(0.0, 1e6, 5) == analysis.softmax_constant(0.0, 5) > 1 / 5 * (1 + 1e-6)
    assert analysis.topk_constant(3.0, 0.5, 1) == 2.0


@given(st.floats(0.0, 9.0), st.floats(1e-6, 9.0), st.integers(1, 40))
def test_topk_constant_is_below_a_half_only_for_separations_above_2_over_k(delta, separation, k):
    assert separation > 2 / k or analysis.topk_constant(delta, separation, k) >= 0.5


@pytest.mark.parametrize("k", [1, 2, 5])
def test_topk_constant_is_nearly_reached_by_a_swap(k):
    before, after = np.zeros(k + 1), np.zeros(k + 1)
    before[0] = after[-1] = -0.01
    moved = l1(topk(before, k)[0] - topk(after, k)[0]) / l1(before - after)
    constant = analysis.topk_constant(0.0, 0.01, k)
    assert 0.98 * constant < moved <= constant * SLACK


@given(SEEDS, st.floats(0.01, 3.0))
def test_attention_never_moves_more_than_its_constants(seed, scale):
    random = np.random.default_rng(seed)
    keys, width = int(random.integers(2, 12)), 3
    value, x = random.normal(size=(width, width)), random.normal(size=(width, keys))
    form = scale * random.normal(size=(width, width))
    step = random.choice([1e-4, 1.0])
    other_form, other_x = form + step * random.normal(size=form.shape), x + step * random.normal(size=x.shape)

    def attend(x, form, weigh=softmax):
        scores = x.T @ form @ x  # one column for each query
        return value @ x @ np.stack([weigh(column) for column in scores.T], axis=1)

    def dispersion(x):
        return np.ptp(x.T @ form @ x, axis=0).max()

    def norm(columns):
        return np.linalg.norm(columns, axis=0).sum()

    largest = max(np.linalg.norm(x, axis=0).max(), np.linalg.norm(other_x, axis=0).max())
    upsilon, gamma = np.linalg.norm(value, 2), np.linalg.norm(form, 2)
    way = np.linalg.norm(form - other_form, 2)
    of_w = analysis.proven_lambda_w(keys, upsilon, largest)
    assert norm(attend(x, form) - attend(x, other_form)) <= of_w * way * SLACK
    delta = max(dispersion(x), dispersion(other_x))
    of_x = analysis.proven_lambda_x(delta, keys, upsilon, gamma, largest)
    assert norm(attend(x, form) - attend(other_x, form)) <= of_x * norm(x - other_x) * SLACK
    k = int(random.integers(1, keys))
    gap = min(topk(column, k)[3] for each in (form, other_form) for column in (x.T @ each @ x).T)
    of_topk = analysis.topk_lambda_w(keys, gap, upsilon, largest)
    sparse = [attend(x, each, lambda scores: topk(scores, k)[0]) for each in (form, other_form)]
    assert norm(sparse[0] - sparse[1]) <= of_topk * way * SLACK


def test_out_of_range():
    with pytest.raises(ValueError, match=r"separation=0\.0; expected a number above 0"):
        analysis.topk_constant(1.0, 0.0, 5)
    with pytest.raises(ValueError, match=r"delta=-1\.0; expected a number of at least 0"):
        analysis.softmax_constant(-1.0, 5)
    with pytest.raises(ValueError, match="keys=0; expected an integer of at least 1"):
        analysis.softmax_constant(1.0, 0)
