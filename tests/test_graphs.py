"""``torch.export`` and ``torch.compile`` of whole models."""

import pytest
import torch
from tiny_families import EVERYTHING, SPARSE, build, inputs, left_padded, tokens

CASES = [
    ("gpt2", SPARSE),
    ("llama", SPARSE),
    ("bert", SPARSE),
    ("llama", EVERYTHING),
    ("llama", "banded_sparse:window=3"),
]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_exported_programs_compute_the_same_at_other_lengths(family, name):
    model = build(family, name)
    model.config.use_cache = False
    rows, length = torch.export.Dim("rows", min=1, max=8), torch.export.Dim("length", min=5, max=32)
    shapes = {key: {0: rows, 1: length} for key in ("input_ids", "attention_mask")}
    program = torch.export.export(model, (), inputs(family), dynamic_shapes=shapes, strict=False)
    longer = tokens(3, 17)
    given = {"input_ids": longer, "attention_mask": left_padded(longer)}
    real = given["attention_mask"].bool()
    with torch.no_grad():
        found = program.module()(**given).logits[real]
        torch.testing.assert_close(found, model(**given).logits[real], rtol=1e-4, atol=1e-4)
        if name == EVERYTHING:
            expected = build(family, "sdpa")(**given).logits[real]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("family", ["bert", pytest.param("t5", marks=pytest.mark.slow)])
def test_compiled_models_compute_and_train_the_same(family):
    """``test_compile.py`` has the decoders."""
    outs = []
    for compiled in (False, True):
        model = build(family, SPARSE)
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        loss = run(**inputs(family)).logits.sin().sum()
        loss.backward()
        outs.append([loss, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(outs[1], outs[0], rtol=1e-3, atol=1e-5)
