"""The paper's conditions: its reference table, extreme values, regions, and what proven constants say beside them."""

import math
from decimal import Decimal, getcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import tiny_config
from transformers import LlamaForCausalLM

from hf_semfocus import analysis
from hf_semfocus.analysis import Condition

K = 5
# arXiv 2506.14095, values of the official code's table for top-5: delta_s, delta_h, Delta_h, beta at 75, 90, 95, 100 %
# (Delta_h at 25, 10, 5, 0 %), and the left sides lambda_W and lambda_X that they give
PAPER = {
    "ListOps": (
        (8.61, 18.5, 29.4, 87.8), (3.51, 6.74, 9.67, 28.2), (0.016, 0.005, 0.002, 1e-9), (1, 3, 15, 598),
        (".970", ".688", ".564", ".565"), (".898", ".674", ".586", ".612"),
    ),
    "Parity": (
        (8.30, 10.1, 11.2, 19.4), (2.31, 3.13, 3.78, 9.16), (0.062, 0.022, 0.011, 1e-6), (8, 13, 16, 33),
        (".704", ".759", ".803", "1.220"), (".723", ".808", ".862", "1.286"),
    ),
    "Even pairs": (
        (2.03, 4.73, 9.44, 14.6), (1.03, 2.84, 5.50, 8.25), (0.009, 0.003, 0.002, 3e-8), (6, 17, 26, 40),
        ("3.174", "1.976", "1.315", "1.799"), ("3.025", "2.102", "1.424", "1.897"),
    ),
    "Missing duplicates": (
        (4.63, 9.25, 17.1, 23.9), (2.36, 4.25, 4.88, 10.5), (0.018, 0.006, 0.003, 1e-7), (7, 15, 21, 40),
        ("1.531", "1.088", ".666", "1.143"), ("1.529", "1.152", ".718", "1.204"),
    ),
}  # fmt: skip
HOLDS = {"ListOps": "1111", "Parity": "1110", "Even pairs": "0000", "Missing duplicates": "0010"}


def printed(value):
    return f"{value:.3f}".removeprefix("0")


def of_paper(task):
    columns = zip((0.75, 0.9, 0.95, 1.0), *PAPER[task][:4], strict=True)
    return [Condition(None, quantile, *measured, K) for quantile, *measured in columns]


@pytest.mark.parametrize("task", PAPER)
def test_the_papers_table(task):
    delta_s, delta_h, separation, beta, left_w, left_x = PAPER[task]
    assert tuple(map(printed, analysis.lambda_w(delta_s, delta_h, separation))) == left_w
    assert tuple(map(printed, analysis.lambda_x(delta_s, delta_h, separation, np.array(beta) / K))) == left_x
    found = of_paper(task)
    left = [(printed(each.lambda_w), printed(each.lambda_x)) for each in found]
    assert left == list(zip(left_w, left_x, strict=True))
    assert "".join(str(int(each.holds_w)) for each in found) == HOLDS[task]
    assert "".join(str(int(each.holds_x)) for each in found) == HOLDS[task]


def test_table_in_the_papers_layout():
    table = analysis.table({task: of_paper(task) for task in PAPER}).splitlines()
    header, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert header[1:6] == ["quantiles", "delta_s", "delta_h", "Delta_h", "beta"]
    assert header[6:] == ["lambda_W", "lambda_X", "W holds", "X holds"]
    even = lines[2]
    assert even[:3] == ["Even pairs", "75% 90% 95% 100%", "2.03 4.73 9.44 14.6"]
    assert even[4:7] == ["0.009 0.003 0.002 3e-08", "6 17 26 40", "3.174 1.976 1.315 1.799"]
    assert [line[8] for line in lines] == ["everywhere", "at 75%, 90%, 95%", "nowhere", "at 95%"]
    assert [line[9] for line in lines] == ["everywhere", "at 75%, 90%, 95%", "nowhere", "at 95%"]


def test_proven_constants_beside_the_papers_table():
    lines = analysis.proven_table({task: of_paper(task) for task in PAPER}, keys=40).splitlines()
    rows = {cells[0]: cells[1:] for line in lines if (cells := [cell.strip() for cell in line.split("|")[1:-1]])}
    # where the paper measured, the constant of softmax does not depend on the dispersion, and that of top-k is larger
    assert rows["Parity"][:3] == ["75% 90% 95% 100%", "0.5 0.5 0.5 0.5", "0.5 0.5 0.5 0.5"]
    assert rows["Parity"][3] == "3.48 9.34 18.4 2e+05"
    assert rows["Even pairs"][1:3] == ["0.273 0.5 0.5 0.5", "0.484 0.5 0.5 0.5"]


def exact(delta_s, delta_h, separation, sink_ratio):
    """Both left sides from their definition, as quotients of bounds with exponentials in 60 digits."""
    getcontext().prec, getcontext().Emax = 60, 10**9
    s, h, gap, beta = map(Decimal, (delta_s, delta_h, separation, sink_ratio))
    full_w, topk_w = s.exp(), 2 * h.exp() * (1 + 1 / gap)
    full_x, topk_x = s.exp() * (1 + s), h.exp() * (beta + s * (1 + beta) * (1 + 1 / gap))
    return float((topk_w / full_w).ln() / s + 1), float((topk_x / full_x).ln() / s + 1)


@pytest.mark.parametrize("delta_s", [1e-6, 0.5, 30.0, 1e3])
@pytest.mark.parametrize("delta_h", [1e-6, 2.0, 1e3])
@pytest.mark.parametrize("separation", [1e-9, 1e-3, 50.0])
@pytest.mark.parametrize("sink_ratio", [0.2, 120.0])
def test_left_sides_are_logarithms_of_quotients(delta_s, delta_h, separation, sink_ratio):
    of_w, of_x = exact(delta_s, delta_h, separation, sink_ratio)
    assert analysis.lambda_w(delta_s, delta_h, separation) == pytest.approx(of_w, rel=1e-12)
    assert analysis.lambda_x(delta_s, delta_h, separation, sink_ratio) == pytest.approx(of_x, rel=1e-12)


def test_small_values_are_floored_and_strange_ones_refused():
    assert analysis.lambda_w(3.0, 1.0, 1e-12) == analysis.lambda_w(3.0, 1.0, 0.0) == analysis.lambda_w(3.0, 1.0, 1e-9)
    assert math.isfinite(analysis.lambda_x(0.0, 0.0, 0.0, 0.0))
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match=r"separation=.*; expected numbers of at least 0"):
            analysis.lambda_w(3.0, 1.0, bad)
    with pytest.raises(ValueError, match="k=0; expected an integer of at least 1"):
        Condition(None, 1.0, 3.0, 1.0, 0.1, 2.0, 0)


def rows(quantity, values, layer=None, head=None):
    made = {"layer": layer, "head": head, "quantity": quantity}
    return [{**made, "quantile": quantile, "value": value} for quantile, value in values.items()]


def test_conditions_of_records():
    dense, sparse = [], []
    for layer, shift in ((None, 0.0), (0, 1.0), (1, 2.0)):
        dense += rows("dispersion", {0.9: 10.0 + shift, 1.0: 20.0 + shift}, layer)
        sparse += rows("kept_dispersion", {0.9: 2.0 + shift, 1.0: 4.0 + shift}, layer)
        sparse += rows("separation", {1 - 0.9: 0.5, 0.0: 0.25}, layer)
        sparse += rows("in_degree", {0.9: 8.0, 1.0: 40.0}, layer)
        sparse += rows("separation", {1 - 0.9: 7.0}, layer, head=0) + rows("entropy", {0.9: 7.0}, layer)
    found = analysis.conditions(dense, sparse, 4, quantiles=(0.9, 1.0))
    assert [(each.layer, each.quantile) for each in found] == [
        (None, 0.9), (None, 1.0), (0, 0.9), (0, 1.0), (1, 0.9), (1, 1.0),
    ]  # fmt: skip
    assert found[3] == Condition(0, 1.0, 21.0, 5.0, 0.25, 40.0, 4)
    assert found[3].lambda_x == analysis.lambda_x(21.0, 5.0, 0.25, 10.0)
    assert "| model, layer 1 |" in analysis.table({"model": found})

    class Record:
        def rows(self):
            return sparse

    assert analysis.conditions(dense, Record(), 4, quantiles=(0.9, 1.0)) == found
    with pytest.raises(ValueError, match=r"the dense record has no quantile 0\.75 of 'dispersion' over all layers"):
        analysis.conditions(dense, sparse, 4)


def test_conditions_of_captured_models():
    model = LlamaForCausalLM(tiny_config("llama"))
    records = []
    for attention in ("sdpa", "topk_sparse:k=3", "banded_sparse:window=3"):
        model.set_attn_implementation(attention)
        with analysis.capture(model) as record:
            model(torch.arange(3, 27).view(2, 12))
        records.append(record)
    dense, sparse, band = records
    found = analysis.conditions(dense, sparse, 3)
    assert [each.layer for each in found] == [None] * 4 + [0] * 4 + [1] * 4
    for each in found:
        assert each.delta_s == dense.pooled("dispersion", each.layer).quantiles([each.quantile])[0]
        smallest = sparse.pooled("separation", each.layer).quantiles([1 - each.quantile])[0]
        assert each.separation == pytest.approx(smallest, abs=1e-12)
        assert each.lambda_x == analysis.lambda_x(each.delta_s, each.delta_h, each.separation, each.beta / 3)
    with pytest.raises(ValueError, match="keeps other keys than those of the highest scores"):
        analysis.conditions(dense, band, 3)


@pytest.mark.parametrize("delta_s", [0.25, 1.0, 4.0, 32.0, 1e3])
@pytest.mark.parametrize("c1", [0.0, 0.3, 0.9])
def test_regions_end_where_the_conditions_do(c1, delta_s):
    for ratio in (None, 0.0, 1.0, 32.0):
        if ratio is None:
            smallest, left = analysis.smallest_c2_w(c1, delta_s), analysis.lambda_w
        else:
            smallest = analysis.smallest_c2_x(c1, delta_s, ratio)
            left = lambda *args, ratio=ratio: analysis.lambda_x(*args, ratio)  # noqa: E731
        if math.isinf(smallest):
            assert left(delta_s, c1 * delta_s, 1e12) > 1 - 1e-6
        elif smallest * delta_s > 1e-8:  # else below the floor
            assert left(delta_s, c1 * delta_s, smallest * delta_s * 0.999) > 1
            assert left(delta_s, c1 * delta_s, smallest * delta_s * 1.001) < 1


def test_pictures_of_regions(tmp_path):
    pytest.importorskip("matplotlib")
    for draw in (analysis.draw_regions_w, analysis.draw_regions_x):
        draw(tmp_path / "regions.svg")
        assert (tmp_path / "regions.svg").read_text().count("delta_s") >= 1


def test_public_names_are_found_and_not_hidden_by_modules():
    for name in dir(analysis):
        assert not isinstance(getattr(analysis, name), ModuleType)
        assert not (Path(analysis.__file__).parent / f"{name}.py").exists(), f"importing {name}.py hides {name}()"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = analysis.nothing
