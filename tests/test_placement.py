"""Models that are copied, share a configuration, or are placed by Accelerate stay sparse and compute the same."""

import copy
import pickle

import accelerate
import pytest
import torch
import transformers
from tiny_families import AUTO, FAMILIES, SPARSE, build, config, logits, used

import hf_semfocus


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("family", FAMILIES)
def test_copies_compute_the_same_and_are_apart(family, copied):
    model = build(family, "topk_sparse", semfocus={"k": 3})
    expected = logits(model, family)
    again = copied(model)
    assert torch.equal(logits(again, family), expected)
    hf_semfocus.configure(again, k=2)
    assert (used(again, family), used(model, family)) == ({"topk_sparse:k=2"}, {SPARSE})
    again.set_attn_implementation("sdpa")
    assert torch.equal(logits(model, family), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_models_in_turn(family):
    """Settings of one are not seen by the other, whichever ran last."""
    names = [SPARSE, "topk_sparse:k=2", "banded_sparse:window=3", "sdpa"]
    alone = [logits(build(family, name), family) for name in names]
    together = [build(family, name) for name in names]
    for _ in range(2):
        for model, expected in zip(together, alone, strict=True):
            assert torch.equal(logits(model, family), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_configuration_of_two_models(family):
    """As long as they hold the same object, what is set on one holds for both."""
    shared = config(family)
    shared._attn_implementation = SPARSE
    cls = type(build(family, "sdpa"))
    first, second = cls(shared).eval(), cls(shared).eval()
    for name in (SPARSE, "topk_sparse:k=2"):
        if name != SPARSE:
            first.set_attn_implementation(name)
        second.load_state_dict(first.state_dict())
        assert used(first, family) == {name}
        if family != "t5":  # whose encoder and decoder hold copies
            assert used(second, family) == {name}
            assert torch.equal(logits(first, family), logits(second, family))
    for name in ("sdpa", "topk_sparse:k=1"):  # a model that is made with another name gets a copy
        other = AUTO[family].from_config(shared, attn_implementation=name)
        assert (shared._attn_implementation, other.config._attn_implementation) == ("topk_sparse:k=2", name)


@pytest.fixture
def saved(tmp_path):
    def save(family):
        model = build(family, SPARSE)
        model.save_pretrained(tmp_path / family)
        return tmp_path / family, logits(model, family)

    return save


def partly_on_disk(model):
    """A device map under which the last block of every stack is read from a file when it runs."""
    blocks = [name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    blocks = [name for name in blocks if name.split(".")[-1] in ("h", "layers", "layer", "block") and "0" not in name]

    def places(module, path):
        for name, child in module.named_children():
            inner = f"{path}.{name}".lstrip(".")
            if path in blocks:
                yield inner, "disk" if child is module[-1] else "cpu"
            elif any(block.startswith(inner) for block in blocks):
                yield from places(child, inner)
            else:
                yield inner, "cpu"

    return dict(places(model, ""))


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, partly_on_disk])
@pytest.mark.parametrize("family", FAMILIES)
def test_device_map(family, device_map, saved, tmp_path):
    folder, expected = saved(family)
    if callable(device_map):
        device_map = device_map(build(family, SPARSE))
    model = AUTO[family].from_pretrained(folder, device_map=device_map, offload_folder=str(tmp_path / "disk")).eval()
    assert torch.equal(logits(model, family), expected)
    assert used(model, family) == {SPARSE}


@pytest.mark.parametrize("device_map", [lambda model: {"": "cpu"}, partly_on_disk])
@pytest.mark.parametrize("family", FAMILIES)
def test_loading_of_big_models(family, device_map, saved, tmp_path):
    folder, expected = saved(family)
    with accelerate.init_empty_weights():
        model = AUTO[family].from_config(transformers.AutoConfig.from_pretrained(folder))
    model.tie_weights()
    places = device_map(model)
    disk = str(tmp_path / "disk")
    model = accelerate.load_checkpoint_and_dispatch(model, str(folder), device_map=places, offload_folder=disk).eval()
    assert ("disk" in places.values()) == any(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(logits(model, family), expected)
    assert used(model, family) == {SPARSE}
