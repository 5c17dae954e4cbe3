"""Landscapes and sharpness of a model whose loss is known, restored weights, and landscapes that are gone on with."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import tiny_config
from recipe import bare
from torch import nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from hf_semfocus import SemFocusEncoderConfig, SemFocusEncoderForSequenceClassification, analysis, configure, verify
from hf_semfocus.analysis.curvature import _by_formula, hessian_product
from hf_semfocus.data.rows import SequenceRows, TokenRows
from hf_semfocus.training import causal_lm, classification

ROWS = SequenceRows([[3, 4, 5, 6, 7, 8], [5, 3, 9, 9, 4], [8, 8, 3, 4, 6, 7, 5], [4, 9, 4, 3]], [0, 1, 2, 1], 0)

TEXTS = TokenRows(*[[[3, 4, 5, 6, 7, 8], [5, 3, 9, 9, 4]]] * 2, 0)


class Quadratic(nn.Module):
    """Its loss per example is w.H w / 2, w both parameters one after the other."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]], dtype=dtype))
        self.bias = nn.Parameter(torch.tensor([2.0, -0.5], dtype=dtype))
        random = torch.Generator().manual_seed(1)
        half = torch.randn(8, 8, generator=random, dtype=dtype)
        self.register_buffer("hessian", half + half.T)

    def loss(self):
        w = torch.cat([self.weight.flatten(), self.bias])
        return w @ self.hessian @ w / 2


def quadratic(model, inputs):
    labels = inputs["labels"]
    return model.loss() * len(labels), labels.clamp(max=1), labels


def encoder(attention="topk_sparse:k=3", **changes):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SemFocusEncoderConfig(vocab_size=10, num_labels=3, dropout=0.2, **sizes, **changes)
    config._attn_implementation = attention
    return SemFocusEncoderForSequenceClassification(config)


def bits(model):
    return [parameter.detach().clone().view(torch.int32) for parameter in model.parameters()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_directions_are_those_of_the_official_scripts():
    model = encoder()
    torch.manual_seed(7)
    expected = [[torch.randn(p.shape) for _ in range(2)] for p in model.parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    directions = analysis.random_directions(model, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, drawn, *found in zip(
        model.parameters(), expected, directions.first, directions.second, strict=True
    ):
        for normal, direction in zip(drawn, found, strict=True):
            torch.testing.assert_close(direction, normal / normal.norm() * parameter.norm())
    whole = torch.cat([p.detach().flatten() for p in model.parameters()]).norm()
    assert directions.lengths == pytest.approx([float(whole)] * 2, rel=1e-5)
    double = analysis.random_directions(copy.deepcopy(model).double(), seed=7)
    torch.testing.assert_close(double.first[3].float(), directions.first[3])


def test_filter_normalization():
    model = Quadratic()
    found = analysis.random_directions(model, 0, "filter")
    torch.testing.assert_close(found.first[0].norm(dim=1), model.weight.detach().norm(dim=1))
    assert not found.first[1].any()
    with pytest.raises(ValueError, match="normalization='layer'; expected one of tensor, filter"):
        analysis.random_directions(model, 0, "layer")


def test_known_landscape():
    model = Quadratic()
    found = analysis.landscape(model, ROWS, quadratic, points=4, extent=0.6, seed=5, batch_size=3, show=False)
    d1, d2 = (
        torch.cat([part.flatten() for part in each]) for each in vars(analysis.random_directions(model, 5)).values()
    )
    w = torch.cat([model.weight.detach().flatten(), model.bias.detach()])
    assert found.axis == pytest.approx([-0.6, -0.2, 0.2, 0.6])
    for i, x in enumerate(found.axis):
        for j, y in enumerate(found.axis):
            at = w + x * d1 + y * d2
            assert found.loss[i, j] == pytest.approx(float(at @ model.hessian @ at / 2), rel=1e-12)
    assert (found.accuracy == 0.75).all()
    assert found.lengths == pytest.approx([float(w.norm())] * 2)


def test_weights_modes_and_random_numbers_are_restored_after_an_exception():
    model = encoder().train()
    model.dropout = model.base_model  # a module that is found twice
    model.base_model.eval()
    before, modes = bits(model), [module.training for module in model.modules()]
    state, calls = torch.get_rng_state(), []

    def failing(*args):
        calls.append(same(bits(model), before))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return classification(*args)

    with pytest.raises(KeyboardInterrupt):
        analysis.landscape(model, ROWS, failing, points=3, show=False)
    assert calls == [False] * 3  # the weights had moved
    assert same(bits(model), before)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("attention_dropout", [False, True])
def test_a_landscape_that_is_gone_on_with_equals_one_in_one_go(tmp_path, attention_dropout):
    model, file = encoder(), tmp_path / "landscape.json"
    options = {"points": 3, "extent": 0.5, "attention_dropout": attention_dropout, "show": False}
    whole = analysis.landscape(model, ROWS, classification, **options)
    calls = []

    def failing(*args):
        calls.append(args)
        if len(calls) == 5:
            raise RuntimeError("stopped")
        return classification(*args)

    with pytest.raises(RuntimeError, match="stopped"):
        analysis.landscape(model, ROWS, failing, file=file, **options)
    assert len(json.loads(file.read_text())["done"]) == 4
    assert np.isnan(analysis.Landscape.load(file).loss).sum() == 5
    calls.clear()
    resumed = analysis.landscape(
        model, ROWS, lambda *args: calls.append(1) or classification(*args), file=file, **options
    )
    assert len(calls) == 5
    for each in (resumed, analysis.Landscape.load(file)):
        np.testing.assert_array_equal(each.loss, whole.loss)
        np.testing.assert_array_equal(each.accuracy, whole.accuracy)
    plain = analysis.landscape(model, ROWS, classification, **{**options, "attention_dropout": False})
    assert (plain.loss != whole.loss).any() == attention_dropout


def test_progress_is_told_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr("hf_semfocus.analysis.surface.SECONDS", 0)
    analysis.landscape(Quadratic(), ROWS, quadratic, points=2)
    assert "landscape, 3 of 4 places\n" in capsys.readouterr().out
    analysis.landscape(Quadratic(), ROWS, quadratic, points=2, show=False)
    assert capsys.readouterr().out == ""


def test_a_file_of_another_landscape_is_refused(tmp_path):
    file = tmp_path / "landscape.json"
    options = {"points": 2, "file": file, "show": False}
    analysis.landscape(Quadratic(), ROWS, quadratic, **options)
    with pytest.raises(ValueError, match=r"holds another landscape \(seed: 0 -> 1\); expected a new file"):
        analysis.landscape(Quadratic(), ROWS, quadratic, seed=1, **options)
    other = Quadratic()
    other.bias.data[0] += 1e-12
    with pytest.raises(ValueError, match=r"holds another landscape \(weights"):
        analysis.landscape(other, ROWS, quadratic, **options)
    file.write_text("[]")
    with pytest.raises(ValueError, match="is not a landscape"):
        analysis.landscape(other, ROWS, quadratic, **options)


@pytest.mark.slow
def test_processes_share_the_places(tmp_path):
    script = (
        "import sys, torch; sys.path.insert(0, 'tests'); torch.manual_seed(0)\n"
        "from accelerate import Accelerator\n"
        "from test_landscape import *\n"
        "found = analysis.landscape(encoder(), ROWS, classification, points=3, accelerator=Accelerator(cpu=True),\n"
        "    file=sys.argv[1], show=False)\n"
        "assert not np.isnan(found.loss).any()\n"
    )
    (tmp_path / "run.py").write_text(script)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    file = tmp_path / "landscape.json"
    subprocess.run(
        [*launch, "--mixed_precision", "no", tmp_path / "run.py", file], env=bare(), check=True, timeout=300
    )
    found, alone = (
        analysis.Landscape.load(file),
        analysis.landscape(encoder(), ROWS, classification, points=3, show=False),
    )
    np.testing.assert_array_equal(found.loss, alone.loss)


def plane(points=5, extent=1.0, lengths=(4.0, 8.0)):
    """Slopes of 3 and 1 per unit of the grid, and a kink at x = 0.5 beyond which it is 30."""
    axis = np.linspace(-extent, extent, points)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    loss = 3 * x + y + 27 * np.maximum(0, x - 0.5)
    return analysis.Landscape(axis, loss, np.zeros_like(loss), lengths, {})


def curve(rows, percentile, denominator):
    wanted = {"percentile": percentile, "denominator": denominator}
    return {row["radius"]: row["value"] for row in rows if {key: row[key] for key in wanted} == wanted}


def test_empirical_lipschitz_curve_with_both_denominators():
    found = analysis.lipschitz(plane(), radii=(0.25, 0.5, 1.0), percentiles=(0, 100))
    # the window of 0.25 holds one place, and so no neighbors
    assert curve(found, 100, "grid") == pytest.approx({0.5: 3.0, 1.0: 30.0})
    assert curve(found, 0, "grid") == pytest.approx({0.5: 1.0, 1.0: 1.0})
    assert curve(found, 100, "parameters") == pytest.approx({0.5: 3 / 4, 1.0: 30 / 4})
    assert curve(found, 0, "parameters") == pytest.approx({0.5: 1 / 8, 1.0: 1 / 8})
    official = analysis.lipschitz(plane(), radii=(0.5, 1.0), percentiles=(100,), window="official")
    assert curve(official, 100, "grid") == pytest.approx({0.5: 3.0, 1.0: 3.0})  # never the last line, with its kink
    with pytest.raises(ValueError, match="window='left'; expected one of centered, official"):
        analysis.lipschitz(plane(), window="left")


def test_places_of_a_neighborhood():
    assert analysis.neighborhood(5, 1.0, 0.5) == [(x, y) for x in (-0.5, 0.0, 0.5) for y in (-0.5, 0.0, 0.5)]
    assert len(analysis.neighborhood(4, 0.6, 0.2)) == 4
    assert len(analysis.neighborhood(5, 1.0, 0.5, signed=True)) == 16


def test_a_capture_pools_the_places_of_a_neighborhood():
    model = encoder().eval()
    directions, batch = analysis.random_directions(model, 0), ROWS.batch(np.arange(4), np.arange(4))
    places = analysis.neighborhood(3, 0.1, 0.1)
    records = []
    for around in ([(0.0, 0.0)], places):
        with analysis.capture(model, quantities=["dispersion"]) as record:
            for x, y in around:
                with analysis.moved(model, directions, x, y):
                    model(**batch)
        records.append(record.pooled("dispersion"))
    here, near = (record.quantiles([0, 1]) for record in records)
    assert near[0] <= here[0]
    assert near[1] > here[1]


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    both = {"sdpa": plane(), "topk_sparse:k=5": plane(lengths=(2.0, 2.0))}
    analysis.draw_landscapes(both, tmp_path / "landscapes.svg")
    analysis.draw_lipschitz(both, tmp_path / "slopes.svg")
    for name in ("landscapes", "slopes"):
        text = (tmp_path / f"{name}.svg").read_text()
        assert "<!-- sdpa" in text
        assert "<!-- topk_sparse:k=5" in text
    with pytest.raises(ValueError, match="0 landscapes without a finite loss"):
        analysis.draw_landscapes({}, tmp_path / "none.svg")


def test_known_eigenvalues():
    pytest.importorskip("scipy")
    model = Quadratic()
    found = analysis.sharpness(model, ROWS, quadratic, count=2, batch_size=3, tolerance=1e-10)
    assert found.eigenvalues == pytest.approx(torch.linalg.eigvalsh(model.hessian).flip(0)[:2].tolist(), rel=1e-9)
    assert max(found.residuals) < 1e-6
    assert found.products > 2


@pytest.mark.parametrize("attention", ["eager", "sdpa", "topk_sparse:k=3", "block_local_sparse:block_size=2"])
@pytest.mark.parametrize("family", ["encoder", "gpt2", "llama"])  # GELU and LayerNorm with weights; SiLU
def test_hessian_products_are_differences_of_gradients(family, attention):
    pytest.importorskip("scipy")
    if family == "encoder":
        model, objective = encoder(attention, hidden_act="gelu"), classification
    else:
        build = GPT2LMHeadModel if family == "gpt2" else LlamaForCausalLM
        model, objective = build(tiny_config(family)), causal_lm
        model.set_attn_implementation(attention)
    rows = ROWS if family == "encoder" else TEXTS
    before, name = bits(model), model.config._attn_implementation
    vectors = []

    def kept(copied, inputs):
        vectors.append(copied)
        return objective(copied, inputs)

    found = analysis.sharpness(model, rows, kept, batch_size=2, tolerance=0.5, dtype=torch.float64)
    assert found.residuals[0] < abs(found.eigenvalues[0])
    assert same(bits(model), before)
    assert model.config._attn_implementation == name
    copied = vectors[0]
    assert next(copied.parameters()).dtype == torch.float64
    parameters = list(copied.parameters())
    vector = np.random.default_rng(0).standard_normal(sum(p.numel() for p in parameters))
    product = hessian_product(copied, rows, objective, parameters, vector, 2)
    step = 1e-4 / np.linalg.norm(vector)
    there, back = (gradient(copied, rows, objective, sign * step * vector) for sign in (1, -1))
    expected = (there - back) / (2 * step)
    assert np.abs(product - expected).max() < 2e-2 * np.abs(expected).max()


def gradient(model, rows, objective, shift):
    """Of the mean loss, at other weights."""
    model = copy.deepcopy(model)
    weights = nn.utils.parameters_to_vector(model.parameters()) + torch.from_numpy(shift)
    nn.utils.vector_to_parameters(weights.detach(), model.parameters())
    order = np.arange(len(rows))
    loss = sum(objective(model, rows.batch(order[row : row + 1], order[row : row + 1]))[0] for row in order)
    grads = torch.autograd.grad(loss / rows.units(order), list(model.parameters()))
    return torch.cat([grad.flatten() for grad in grads]).numpy()


def test_the_copy_has_every_parameter_of_the_model():
    model = GPT2LMHeadModel(tiny_config("gpt2"))
    for name, settings in (
        ("topk_sparse:k=3", {}),
        ("topk_sparse", {"k": 3, "layers": {"1": "sdpa"}}),
        ("topk_sparse:k=3", {"heads": {"0": "sdpa"}}),
    ):
        configure(model, name, **settings)
        found = verify(_by_formula(copy.deepcopy(model)), input_ids=torch.ones(1, 5, dtype=torch.long))
        assert found == verify(model, input_ids=torch.ones(1, 5, dtype=torch.long))


def test_fused_kernels_are_refused():
    pytest.importorskip("scipy")
    model = encoder()
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="'flex_attention' is a fused kernel, which has no second derivative"):
        analysis.sharpness(model, ROWS, classification)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(ImportError, match=r"eigenvalues need SciPy; pip install 'hf_semfocus\[analysis\]'"):
        analysis.sharpness(encoder(), ROWS, classification)
