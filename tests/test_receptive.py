"""Receptive fields and inputs that meet, against walks along kept keys, and for patterns known by hand."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_semfocus.analysis import attention_maps, capture, meeting, receptive_field
from hf_semfocus.data import tasks
from hf_semfocus.experiments import measure_quantities
from hf_semfocus.models import SemFocusEncoderConfig


def encoder(attention, length=40, layers=5):
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": layers, "max_position_embeddings": length}
    config = SemFocusEncoderConfig(vocab_size=2, num_global_tokens=int("global_position=last" in attention), **shape)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).eval()


def field(attention, length=40, layers=5, rows=3):
    ids = torch.randint(2, (rows, length), generator=torch.Generator().manual_seed(1))
    return receptive_field(attention_maps(encoder(attention, length, layers), input_ids=ids))


def walked(maps, row, token):
    """Inputs on a walk from a token of the last layer down to the first, one layer a step or staying in place."""
    at = {token}
    for weights in reversed(maps):
        at |= {key for query in at for head in weights[row] for key in head[query].nonzero().flatten().tolist()}
    return at


@pytest.mark.parametrize("heads", [1, 2])
def test_the_field_is_what_walks_reach(heads):
    random = torch.Generator().manual_seed(3)
    maps = [(torch.rand(2, heads, 9, 9, generator=random) - 1 + 0.15 / heads).clamp(min=0) for _ in range(3)]
    found = receptive_field(maps)
    for row in range(2):
        reached = [walked(maps, row, token) for token in range(9)]
        assert [set(line.nonzero().flatten().tolist()) for line in found[row]] == reached
        pairs = {(a, b) for seen in reached for a in seen for b in seen}
        assert {tuple(pair) for pair in meeting(found)[row].nonzero().tolist()} == pairs
    assert 0 < found.float().mean() < 1


def test_the_ends_of_a_row_never_meet_in_narrow_bands():
    """So the paper's encoder cannot tell whether first and last bit differ, which is all that even pairs asks."""
    for attention in ("banded_sparse:window=5", "block_local_sparse:block_size=5"):
        assert not meeting(field(attention))[:, 0, -1].any()
    # 2 on each side a layer, but 4 inwards at an end, whose window is shifted
    assert field("banded_sparse:window=5")[0, 20].nonzero().flatten().tolist() == list(range(10, 31))
    assert field("banded_sparse:window=5")[0, 0].nonzero().flatten().tolist() == list(range(13))
    assert field("block_local_sparse:block_size=5")[0, 7].nonzero().flatten().tolist() == list(range(5, 10))
    for attention in ("banded_sparse:window=9", "random_sparse:k=5", "eager"):
        assert meeting(field(attention)).all()
    assert meeting(field("banded_sparse:window=5,num_global_tokens=1,global_position=last"))[:, 0, 39].all()


@pytest.mark.parametrize(
    "shapes", [[], [(1, 2, 3)], [(1, 2, 3, 4)], [(1, 2, 3, 3), (1, 2, 4, 4)], [(1, 2, 3, 3), (2, 2, 3, 3)]]
)
def test_maps_that_are_not_of_one_sequence_are_refused(shapes):
    with pytest.raises(ValueError, match="maps have shapes"):
        receptive_field([torch.ones(shape) for shape in shapes])


def test_what_is_measured_of_a_saved_model(tmp_path: Path):
    encoder("topk_sparse:k=3", 10, 2).save_pretrained(tmp_path)
    found = measure_quantities(tmp_path, "parity:max_length=10", seed=5, size=70)
    assert (found["rows"], found["k"]) == (70, 3)
    ids = torch.tensor(tasks.load("parity:max_length=10", "train", seed=5, size=70)["input_ids"][:])
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad(), capture(model) as record:
        model(input_ids=ids)  # all rows at once
    for quantity in ("dispersion", "kept_dispersion", "separation", "in_degree"):
        expected = record.pooled(quantity).quantiles([0.05, 0.9])
        assert [found[quantity]["0.05"], found[quantity]["0.9"]] == pytest.approx(list(expected), rel=1e-5)
    seen = receptive_field(attention_maps(model, input_ids=ids))
    assert found["receptive_field"] == pytest.approx(seen.double().mean().item())
    assert found["meeting"] == pytest.approx(meeting(seen).double().mean().item())
    assert 0.3 < found["receptive_field"] < 1


def test_full_attention_has_no_kept_keys(tmp_path: Path):
    encoder("sdpa", 10, 1).save_pretrained(tmp_path)
    found = measure_quantities(tmp_path, "parity:max_length=10", seed=5, size=7)
    assert found.keys() == {"rows", "k", "dispersion", "receptive_field", "meeting"}
    assert (found["k"], found["receptive_field"], found["meeting"]) == (None, 1.0, 1.0)
