"""Capture: every quantity against plain loops, padding and empty rows, chunks, records, and unchanged results."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CACHE, tiny_config
from test_observe import CONFIGS, EAGER_ONLY, inputs, make
from torch import nn
from transformers import AutoModel, DynamicCache, StaticCache

import hf_semfocus
from hf_semfocus import tables
from hf_semfocus.analysis import QUANTITIES, Record, capture, measuring, records, sketches
from hf_semfocus.attention.problem import Problem
from hf_semfocus.attention.visibility import Visibility
from hf_semfocus.backends import chunked
from hf_semfocus.hf.observe import Call
from hf_semfocus.mechanisms import build

# ---- the definitions, one query at a time


def truth(problem, mechanism, allowed, real):
    """Values by head and quantity, in any order; ``allowed`` is bool [batch, heads, queries, keys]."""
    batch, heads, queries, keys = problem.shape
    groups = heads // problem.key.shape[1]
    found = {(h, name): [] for h in range(heads) for name in QUANTITIES}
    k = mechanism.budget(keys)
    kept_all = mechanism.keep(
        problem.scores(), problem.allowed, problem.positions() if mechanism.positional else None
    ).expand(problem.shape)
    for b in range(batch):
        for h in range(heads):
            degree, seen = [0] * keys, set()
            for i in range(queries):
                visible = [j for j in range(keys) if allowed[b, h, i, j]]
                if not visible or not real[b, i]:
                    continue
                scores = {}
                for j in visible:
                    score = problem.scale * float(problem.query[b, h, i] @ problem.key[b, h // groups, j])
                    if problem.softcap:
                        score = problem.softcap * math.tanh(score / problem.softcap)
                    if problem.bias is not None:
                        score += float(problem.bias.expand(problem.shape)[b, h, i, j])
                    scores[j] = score
                kept = [j for j in visible if kept_all[b, h, i, j]]

                def add(name, value, h=h):
                    found[h, name].append(value)

                top = sorted(scores.values(), reverse=True)
                total = sum(math.exp(s - top[0]) for s in top)
                mass = {j: math.exp(s - top[0]) / total for j, s in scores.items()}
                add("dispersion", top[0] - top[-1])
                add("entropy", -sum(p * math.log(p) for p in mass.values()))
                cumulated = np.cumsum([math.exp(s - top[0]) / total for s in top])
                add("keys_of_90_percent", 1 + int((cumulated < 0.9 - 1e-6).sum()))
                add("kept_mass", sum(mass[j] for j in kept))
                if kept:
                    own = [scores[j] for j in kept]
                    add("kept_dispersion", max(own) - min(own))
                    add("top_overlap", sum(s >= top[len(kept) - 1] for s in own) / len(kept))
                    if dropped := [scores[j] for j in visible if j not in kept]:
                        add("separation", min(own) - max(dropped))
                        add("score_gap", top[len(kept) - 1] - top[len(kept)])
                seen.update(visible)
                for j in kept:
                    degree[j] += 1
            if k:
                found[h, "in_degree"] += [degree[j] for j in seen]
                found[h, "sink_ratio"] += [degree[j] / k for j in seen]
    return found


def problem_of(queries=7, keys=7, causal=True, mask=None, ties=False, **changes):
    draw = torch.randn if not ties else lambda *shape, dtype: torch.randint(-1, 2, shape).to(dtype)
    q, k, v = (draw(2, heads, n, 3, dtype=torch.float64) for heads, n in ((4, queries), (2, keys), (2, keys)))
    who = Visibility.between(queries, keys, q.device, mask, causal)
    return Problem(query=q, key=k, value=v, visibility=who, scale=0.7, **changes)


def padded(keys, side):
    real = torch.ones(2, keys, dtype=torch.bool)
    real[0, slice(0, 3) if side == "left" else slice(4, None)] = False
    return real


def masked(kind):
    """A mask, and which queries are not padding."""
    real = torch.ones(2, 7, dtype=torch.bool)
    if kind in ("left", "right"):
        real = padded(7, kind)
        return real[:, None, None], real
    if kind == "empty":
        mask = torch.rand(2, 1, 7, 7) < 0.7
        mask |= torch.eye(7, dtype=torch.bool)
        mask[1, :, 2:4] = False
        return mask, real
    return None, real


def compare(found, expected):
    assert {key for key, values in expected.items() if values} == {k for k, v in found.items() if sum(map(len, v))}
    for place, values in expected.items():
        got = np.sort(np.concatenate([np.empty(0), *found.get(place, [])]))
        np.testing.assert_allclose(got, np.sort(np.asarray(values, dtype=float)), rtol=1e-9, atol=1e-9, err_msg=place)


MECHANISMS = ["topk_sparse:k=3", "topk_sparse:k=50", "topk_sparse:k=1", "bottomk_sparse:k=2", "random_sparse:k=3"]
MECHANISMS += ["banded_sparse:window=3", "block_local_sparse:block_size=3", "strided_sparse:window=2,stride=3"]


@pytest.mark.parametrize("kind", ["none", "left", "right", "empty"])
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("spec", MECHANISMS)
@pytest.mark.parametrize("chunk", [1, 1 << 20], ids=["one", "all"])
def test_every_quantity_is_what_its_definition_says(spec, causal, kind, chunk, monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_SCORES", chunk)
    monkeypatch.setattr("hf_semfocus.analysis.quantities.mass.FEW", 1 if chunk > 1 else 64)
    monkeypatch.setattr("hf_semfocus.analysis.quantities.rows.SORTED_SHARE", 1)
    mask, real = masked(kind)
    mechanism = build(spec)
    problem = problem_of(causal=causal, mask=mask, ties=kind == "none")
    found = measuring.measure(Call(nn.Module(), mechanism, problem, False, "auto"), mechanism, QUANTITIES.values())
    compare(found, truth(problem, mechanism, problem.allowed.expand(problem.shape), real))


def test_bias_softcap_and_a_cache():
    bias = torch.randn(1, 4, 3, 8, dtype=torch.float64)
    problem, mechanism = problem_of(queries=3, keys=8, bias=bias, softcap=1.5), build("topk_sparse:k=3")
    found = measuring.measure(Call(nn.Module(), mechanism, problem, False, "auto"), mechanism, QUANTITIES.values())
    compare(found, truth(problem, mechanism, problem.allowed.expand(problem.shape), torch.ones(2, 3)))


def test_every_quantity_has_a_definition_here_and_a_meaning():
    mechanism, problem = build("topk_sparse:k=3"), problem_of()
    values = truth(problem, mechanism, problem.allowed.expand(problem.shape), torch.ones(2, 7))
    names = {name for (_, name), each in values.items() if each}
    assert names == set(QUANTITIES)
    assert all(quantity.meaning for quantity in QUANTITIES.values())


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "topk_sparse:k=3", "banded_sparse:window=3"])
@pytest.mark.parametrize("family", CONFIGS)
def test_padding_never_counts_and_nothing_changes(family, attention, side):
    """A padded batch gives what its sequences give one by one, whatever the attention."""
    if family in EAGER_ONLY and attention == "sdpa":
        pytest.skip("the family has no sdpa")
    model, given = make(family, attention), inputs(family, side)
    with capture(model, mechanism="topk_sparse:k=3") as record:
        output = model(**given).last_hidden_state
    assert torch.equal(output, make(family, attention)(**given).last_hidden_state)
    with capture(model, mechanism="topk_sparse:k=3") as alone:
        for row in range(2):
            real = given["attention_mask"][row].bool()
            one = {name: each[row : row + 1, real] for name, each in given.items() if name == "input_ids"}
            one |= {name: each[row : row + 1] for name, each in given.items() if name == "decoder_input_ids"}
            if family in ("gpt2", "bert", "albert") and side == "left":
                one["position_ids"] = real.nonzero().view(1, -1)
            model(**one)
    assert record.sketches.keys() == alone.sketches.keys()
    for place, sketch in record.sketches.items():
        assert sketch.count == alone.sketches[place].count, place
        if place[2] not in ("top_overlap", "keys_of_90_percent"):  # a rounding may change these by a whole key
            at = np.linspace(0, 1, 7)
            ours, theirs = sketch.quantiles(at), alone.sketches[place].quantiles(at)
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=str(place))


@torch.no_grad()
def test_random_streams_and_gradients_are_untouched():
    model = AutoModel.from_config(tiny_config("gpt2", attn_pdrop=0.5), attn_implementation="sdpa").train()
    torch.manual_seed(3)
    expected = model(**inputs("gpt2")).last_hidden_state
    torch.manual_seed(3)
    with capture(model), torch.enable_grad():
        output = model(**inputs("gpt2")).last_hidden_state
    assert torch.equal(output, expected)
    torch.manual_seed(4)
    with torch.enable_grad():
        model(**inputs("gpt2")).last_hidden_state.sum().backward()
        wanted = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        torch.manual_seed(4)
        with capture(model):
            loss = model(**inputs("gpt2")).last_hidden_state.sum()
        loss.backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), wanted, strict=True))


def test_what_is_measured_of_dense_attention():
    model = make("gpt2", "sdpa")
    with capture(model) as record:
        model(**inputs("gpt2"))
    without = {name for name, quantity in QUANTITIES.items() if not quantity.needs_kept}
    assert {name for *_, name in record.sketches} == without
    with capture(model, ["dispersion"]) as record:
        model(**inputs("gpt2"))
    assert {name for *_, name in record.sketches} == {"dispersion"}
    with (
        pytest.raises(ValueError, match="kept_mass was not measured, as every attention that was seen keeps all keys"),
        capture(model, ["kept_mass"]),
    ):
        model(**inputs("gpt2"))
    for names, error, message in (
        (["dispersio"], ValueError, r"unknown quantity 'dispersio' \(did you mean 'dispersion'\?\)"),
        (None, hf_semfocus.UnsupportedModelError, "no attention of GPT2Model was seen"),
    ):
        with pytest.raises(error, match=message), capture(model, names):
            pass
    with pytest.raises(ValueError, match="a compiled model does not show"), capture(torch.compile(model)):
        pass


def test_a_positional_mechanism_leaves_cross_attention_alone():
    model = make("t5", "banded_sparse:window=3")
    with capture(model, ["kept_dispersion", "dispersion"]) as record:
        model(**inputs("t5"))
    assert len(record.layers) == 6
    kept = {layer for layer, _, name in record.sketches if name == "kept_dispersion"}
    assert len(kept) == 4
    assert all("EncDec" not in record.layers[layer] for layer in kept)


# ---- records and sketches


def captured(model, given, **options):
    with capture(model, **options) as record:
        model(**given)
    return record


@pytest.mark.parametrize("exact", [4096, 10])
@pytest.mark.parametrize("name", ["record.json", "record.parquet"])
def test_a_record_is_saved_loaded_and_merged(tmp_path, name, exact):
    model, given = make("gpt2", "topk_sparse:k=3"), inputs("gpt2", "left")
    record = captured(model, given, exact=exact)
    record.save(tmp_path / name)
    again = Record.load(tmp_path / name)
    assert again.rows() == record.rows()
    again.merge(captured(model, inputs("gpt2"), exact=exact))
    with capture(model, exact=exact) as both:
        model(**given)
        model(**inputs("gpt2"))
    assert {place: sketch.count for place, sketch in again.sketches.items()} == {
        place: sketch.count for place, sketch in both.sketches.items()
    }
    if exact == 4096:
        assert again.rows() == both.rows()
    with pytest.raises(ValueError, match="does not fit"):
        again.merge(Record(["other"]))
    with pytest.raises(ValueError, match="expected a name that ends in"):
        record.save(tmp_path / "record.txt")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a record"):
        Record.load(tmp_path / "other.json")


def test_rows_are_tidy():
    pandas = pytest.importorskip("pandas")
    record = captured(make("gpt2", "topk_sparse:k=3"), inputs("gpt2"))
    rows = record.rows([0.5, 1])
    assert list(rows[0]) == ["layer", "head", "quantity", "quantile", "value"]
    assert len(rows) == len(QUANTITIES) * 2 * (1 + 2 + 2 * 4)
    frame = record.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["layer"].dtype == "Int64"
    heads = [record.sketches[1, head, "entropy"].quantiles([1])[0] for head in range(4)]
    assert (
        max(heads)
        == frame.query("layer == 1 and head.isna() and quantity == 'entropy' and quantile == 1").value.item()
    )
    assert json.loads(json.dumps(rows)) == rows


def test_a_record_shows_itself():
    record = captured(make("gpt2", "topk_sparse:k=3"), inputs("gpt2"), exact=50)
    lines = str(record).splitlines()
    assert len(lines) == 2 + len(QUANTITIES)
    [line] = [line for line in lines if line.startswith("| kept_mass ")]
    low, median, high, count, error, meaning = (cell.strip() for cell in line.split("|")[2:-1])
    assert 0 < float(low) <= float(median) <= float(high) <= 1
    assert (count, error, meaning) == ("144", "0.28%", QUANTITIES["kept_mass"].meaning)
    assert record._repr_html_().count("<tr>") == 1 + len(QUANTITIES)
    assert "<td>kept_mass</td>" in record._repr_html_()
    assert "&lt;b&gt;" in tables.html_table([["a"], ["<b>"]])


def test_conditions_read_a_record():
    dense, sparse = (captured(make("gpt2", name), inputs("gpt2")) for name in ("sdpa", "topk_sparse:k=3"))
    found = hf_semfocus.analysis.conditions(dense.rows([0.75, 0.25]), sparse.rows([0.75, 0.25]), 3, [0.75])
    assert [condition.layer for condition in found] == [None, 0, 1]
    assert found[0].delta_s == dense.pooled("dispersion").quantiles([0.75])[0]


def test_sketches_keep_their_error_bound_and_merge():
    generator = np.random.default_rng(0)
    values = generator.lognormal(size=60_000)
    parts = [sketches.Sketch(100) for _ in range(7)]
    for number, chunk in enumerate(np.array_split(values, 200)):
        parts[number % 7].update(chunk)
    small, whole = sketches.Sketch(100), sketches.Sketch(100)
    small.update(values[:50] * 0 - 1)
    whole.merge(small)
    for part in parts:
        whole.merge(part)
    assert whole.count == 60_050
    values = np.sort(np.concatenate([values, np.full(50, -1.0)]))
    at = np.linspace(0, 1, 101)
    ranks = np.searchsorted(values, whole.quantiles(at)) / len(values)
    assert abs(ranks - at).max() < 2 * sketches.RANK_ERROR
    assert (whole.quantiles([0, 1]) == values[[0, -1]]).all()
    assert whole.rank_error == sketches.RANK_ERROR
    assert small.rank_error == 0
    assert np.isnan(sketches.Sketch().quantiles([0.5])).all()


def test_without_datasketches_few_numbers_are_enough(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasketches", None)
    sketch = sketches.Sketch(5)
    sketch.update(np.arange(5.0))
    assert sketch.quantiles([0.5]) == [2]
    with pytest.raises(ImportError, match=r"pip install 'hf_semfocus\[analysis\]'"):
        sketch.update(np.arange(5.0))


def test_the_records_of_processes_add_up(monkeypatch):
    model = make("gpt2", "topk_sparse:k=3")
    mine, other = captured(model, inputs("gpt2", "left")), captured(model, inputs("gpt2"))
    others = json.loads(json.dumps(other._state()))
    monkeypatch.setattr(records, "gather_object", lambda states: [*states, others])
    assert mine.gathered() is mine
    monkeypatch.setattr(records, "PartialState", lambda: SimpleNamespace(num_processes=2))
    both = mine.gathered()
    mine.merge(other)
    assert both.rows() == mine.rows()
    assert both.calls == 4


def test_what_gradient_checkpointing_computes_again_counts_once():
    model = make("gpt2", "topk_sparse:k=3").train()
    model.gradient_checkpointing_enable()
    with capture(model) as record:
        model(**inputs("gpt2")).last_hidden_state.sum().backward()
    assert record.calls == 2


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("side", [None, "left"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "topk_sparse:k=3", "banded_sparse:window=3"])
def test_decoding_gives_what_one_pass_gives(attention, side, static):
    model, given = make("llama", attention), inputs("llama", side)
    per_query = [name for name, quantity in QUANTITIES.items() if not quantity.is_of_keys]
    with capture(model, per_query, mechanism="topk_sparse:k=3") as whole:
        model(**given)
    cache = StaticCache(model.config, max_cache_len=12) if static else DynamicCache(config=model.config)
    with capture(model, per_query, mechanism="topk_sparse:k=3") as parts:
        for start, stop in ((0, 6), (6, 8), (8, 9)):
            seen = {"attention_mask": given["attention_mask"][:, :stop]} if side else {}
            model(input_ids=given["input_ids"][:, start:stop], **{CACHE: cache}, **seen)
    assert whole.sketches.keys() == parts.sketches.keys()
    for place, sketch in whole.sketches.items():
        assert parts.sketches[place].count == sketch.count, place
        if place[2] not in ("top_overlap", "keys_of_90_percent"):
            at = np.linspace(0, 1, 7)
            np.testing.assert_allclose(parts.sketches[place].quantiles(at), sketch.quantiles(at), rtol=1e-3, atol=1e-5)
