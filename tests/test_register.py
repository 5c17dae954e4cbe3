"""Mechanisms of one's own: names, classes and results that are refused, and what registering again does."""

import re
from dataclasses import dataclass

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import hf_semfocus
from hf_semfocus import mechanisms, sparse_attention
from hf_semfocus.mechanisms import Mechanism, build, count, parameters, parse, real, register
from hf_semfocus.mechanisms.topk import TopK

CELL = """
from dataclasses import dataclass
from hf_semfocus.mechanisms import Mechanism, count, register

@register("own_cell")
@dataclass(frozen=True, kw_only=True)
class Own(Mechanism):
    reach: int = count(1, "positions")

    def pattern(self, at):
        return at.query - at.key {relation} self.reach
""".replace("reach", "span")


@pytest.fixture(autouse=True)
def registered():
    """What a test registers is gone afterwards, from Transformers too."""
    before = [(table, dict(table)) for table in (mechanisms.registry._REGISTRY, *tables())]
    yield
    for table, content in before:
        table.clear()
        table.update(content)


def tables():
    return AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping


def run_cell(relation, module="__main__"):
    exec(CELL.format(relation=relation), {"__name__": module})


def one_slot(name="own", **slots):
    """A class with one parameter and the given slots."""
    body = {"k": count(2, "keys"), "__annotations__": {"k": int}, **slots}
    return dataclass(frozen=True, kw_only=True)(type(name, (Mechanism,), body))


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "a b", "own\n", "own\x00", "x" * 1000 + "\n", "7x", "é", "-a", None, 3),
        *(f"a{c}b" for c in ",=+:/|>@"),
    ],
    ids=lambda name: repr(name)[:9],
)
def test_names_that_cannot_be_told_apart_in_a_string_are_refused(name):
    with pytest.raises(ValueError, match=r"mechanism name .* is not allowed; expected letters") as error:
        register(name)
    assert len(str(error.value)) < 320
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["eager", "full", "auto", "flash_own", "own_sdpa", "flex_attention_own"])
def test_names_that_have_a_meaning_are_refused(name):
    with pytest.raises(ValueError, match="which has a meaning already"):
        register(name)


def test_a_name_of_another_package_is_refused():
    AttentionInterface.register("own_taken", lambda *args, **kwargs: None)
    with pytest.raises(ValueError, match="Transformers has an attention 'own_taken' already"):
        register("own_taken")(one_slot(pattern=lambda self, at: at.key == at.query))
    assert "own_taken" not in mechanisms.names()


class NoMechanism:
    pass


class NoDataclass(Mechanism):
    span: int = count(2, "positions")

    def pattern(self, at):
        return at.key < self.span


@dataclass(frozen=True, kw_only=True)
class Unchecked(Mechanism):
    span: int = 2

    def pattern(self, at):
        return at.key < self.span


@dataclass(frozen=True, kw_only=True)
class Endless(Mechanism):
    def priority(self, scores, at):
        return scores


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (NoMechanism, "NoMechanism is not a mechanism; expected a subclass of"),
        (lambda: None, "is not a mechanism"),
        (
            one_slot(),
            "fills no slot, so that every query keeps all keys; expected pattern, priority, choose",
        ),
        (NoDataclass, "NoDataclass is not a dataclass; expected @dataclass"),
        (Unchecked, "has parameters that nothing checks, span; expected count"),
        (Endless, "has a priority but does not say how many keys it keeps; expected a parameter k"),
        (mechanisms.get("topk_sparse"), "is registered as 'topk_sparse'; expected a subclass"),
    ],
)
def test_classes_that_could_not_be_used_are_refused(cls, words):
    with pytest.raises(ValueError, match=f"mechanism 'own_bad': .*{words}"):
        register("own_bad")(cls)
    assert "own_bad" not in mechanisms.names()
    assert mechanisms.get("topk_sparse").name == "topk_sparse"


@pytest.mark.parametrize("backend", ["eager", "chunked", "gather", "native", "auto"])
@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ({"pattern": lambda self, at: (at.query - at.key).float()}, r"pattern\(\) gives torch.float32 of shape"),
        ({"pattern": lambda self, at: (at.key <= at.query).int()}, r"pattern\(\) gives torch.int32 .*a bool tensor"),
        (
            {"pattern": lambda self, at: torch.ones(5, 9, dtype=torch.bool)},
            r"pattern\(\) gives .*\(5, 9\).*any, 2, 9, 9",
        ),
        ({"pattern": lambda self, at: True}, r"pattern\(\) gives bool; expected a bool tensor"),
        (
            {"priority": lambda self, scores, at: scores.argsort()},
            r"priority\(\) gives torch.int64.*a floating tensor",
        ),
        ({"priority": lambda self, scores, at: scores[..., :3]}, r"priority\(\) gives .*, 3\).*here \[1, 2, 9, 9\]"),
    ],
)
def test_a_slot_that_gives_something_else_is_named(slots, words, backend):
    if "pattern" in slots:  # with lists of its own
        slots = {**slots, "reach": lambda self, at: at.query + torch.arange(2, device=at.query.device)}
        words = words.replace("any, 2, 9, 9", "any, 2, 9, [29]")
    register("own_odd")(one_slot(**slots))
    q, k, v = torch.randn(3, 1, 2, 9, 4)
    with pytest.raises(ValueError, match=f"own_odd: {words}"):
        sparse_attention(q, k, v, "own_odd", backend=backend)


def test_a_priority_of_the_keys_alone_counts_for_every_query():
    register("own_shared")(one_slot(priority=lambda self, scores, at: torch.arange(float(scores.shape[-1]))))
    q, k, v = torch.randn(3, 1, 2, 9, 4)
    results = [
        sparse_attention(q, k, v, "own_shared", backend=name) for name in ("eager", "chunked", "gather", "native")
    ]
    last = sparse_attention(q, k[:, :, -2:], v[:, :, -2:], "topk_sparse:k=2", backend="eager")
    for result in results:
        torch.testing.assert_close(result, last)


@pytest.mark.parametrize("backend", ["eager", "chunked", "gather", "native"])
@pytest.mark.parametrize("size", [{"k": 2}, {"share": 2 / 9}], ids=["k", "share"])
def test_a_subclass_of_top_k_ranks_by_its_own_priority(size, backend):
    """The last two keys, whatever their scores."""
    last = lambda self, scores, at: torch.arange(float(scores.shape[-1]))  # noqa: E731
    register("own_top")(type("Own", (TopK,), {"by_score": None, "priority": last}))
    q, k, v = torch.randn(3, 1, 2, 9, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, -2:], v[:, :, -2:])
    found = sparse_attention(q, k, v, "own_top", **size, backend=backend)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_subclass_of_top_k_chooses_by_its_own_rule():
    """The first key alone; lists refuse a rule that does not say in ``budget`` how many keys it keeps."""
    first = lambda self, scores, allowed, at: allowed & (torch.arange(scores.shape[-1]) < 1)  # noqa: E731
    register("own_choice")(type("Own", (TopK,), {"choose": first}))
    q, k, v = torch.randn(3, 1, 2, 9, 4)
    for backend in ("eager", "chunked"):
        found = sparse_attention(q, k, v, "own_choice", k=2, backend=backend)
        torch.testing.assert_close(found, v[:, :, :1].expand_as(v), rtol=1e-5, atol=1e-6)
    for backend in ("gather", "native"):
        with pytest.raises(ValueError, match="own_choice:k=2 lets a query keep any number of keys"):
            sparse_attention(q, k, v, "own_choice", k=2, backend=backend)


def test_a_cell_that_runs_again_replaces_what_it_registered():
    model = AutoModelForCausalLM.from_config(tiny_config("llama"))
    ids = torch.randint(3, VOCABULARY, (1, 20))
    run_cell("==")
    assert "own_cell" in ALL_ATTENTION_FUNCTIONS
    outputs = []
    model.set_attn_implementation("own_cell")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for relation in ("==", "<=", "=="):
        run_cell(relation)
        outputs.append(model(ids).logits)
        torch.testing.assert_close(compiled(ids).logits, outputs[-1])
        assert set(hf_semfocus.verify(model, input_ids=ids).values()) == {"own_cell:span=1"}
    assert not torch.allclose(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[0], outputs[2])


def test_a_class_from_elsewhere_replaces_only_when_asked_to():
    run_cell("==")
    with pytest.raises(ValueError, match=r"'own_cell' is registered already, by __main__.Own; .*overwrite=True"):
        run_cell("<=", module="elsewhere")
    assert mechanisms.get("own_cell").__module__ == "__main__"
    other = register("own_cell", overwrite=True)(one_slot(pattern=lambda self, at: at.key == at.query))
    assert mechanisms.get("own_cell") is other
    assert other.name == "own_cell"


@pytest.mark.parametrize(
    ("spec", "params", "words"),
    [
        ("random_sparse", {"seed": -1}, "seed=-1 is not allowed; expected an integer of at least 0"),
        ("random_sparse:seed=4294967296", {}, "seed=4294967296 is not allowed.*at most 4294967295"),
        ("topk_sparse", {"k": 10**30}, "k=1000000000000000000000000000000 is not allowed.*at most 2147483647"),
        ("topk_sparse", {"k": 10**9000}, "k=<an integer of 29898 bits> is not allowed"),
        (f"topk_sparse:k={'9' * 9000}", {}, "k='9999.*' is not allowed"),
        ("topk_sparse:k=--5", {}, "k='--5' is not allowed"),
        ("banded_sparse", {"edge": ["cut"] * 500}, r"edge=\['cut', .*\.\.\.\] is not allowed"),
    ],
)
def test_numbers_out_of_range_are_refused_in_a_line(spec, params, words):
    q, k, v = torch.randn(3, 1, 1, 4, 4)
    with pytest.raises(ValueError, match=words) as error:
        sparse_attention(q, k, v, spec, **params)
    assert len(str(error.value)) < 320


def test_the_largest_seed_draws_its_own_keys():
    q, k, v = torch.randn(3, 1, 1, 40, 4)
    ends = [sparse_attention(q, k, v, "random_sparse:k=3", seed=seed) for seed in (0, 2**32 - 1)]
    assert not torch.equal(*ends)


@dataclass(frozen=True, kw_only=True)
class Tempered(Mechanism):
    """Softmax at another temperature, with parameters that are real numbers."""

    k: int = count(2, "keys")
    heat: float = real(1.0, "temperature", above=0, maximum=8)
    share: float = real(0.25, "of nothing", minimum=0, below=1)

    def normalize(self, scores, keep):
        return super().normalize(scores / self.heat, keep)


def test_parameters_may_be_real_numbers():
    register("own")(Tempered)
    spelled = {"2": 2.0, "1.50": 1.5, ".5": 0.5, "5.": 5.0, "1e-3": 0.001, "1.5E+0": 1.5}
    for text, value in spelled.items():
        made = build(f"own:heat={text}")
        assert (made.heat, type(made.heat)) == (value, float)
        assert build(made.spec) == made == build("own", heat=value)
        assert made.spec == f"own:k=2,heat={value!r},share=0.25"
    assert build("own:share=-0.0").spec == "own:k=2,heat=1.0,share=0.0"
    assert parse("own:heat=1e400") == ("own", {"heat": float("inf")})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own:heat=0", "own: heat=0 is not allowed; expected a finite number above 0 and at most 8"),
        ("own:heat=8.5", "own: heat=8.5 is not allowed"),
        ("own:heat=1e400", "own: heat=inf is not allowed"),
        ("own:heat=nan", "own: heat='nan' is not allowed"),
        ("own:heat=1.5.2", "own: heat='1.5.2' is not allowed"),
        ("own:share=1.0", "own: share=1.0 is not allowed; expected a finite number at least 0 and below 1"),
        ("own:k=2.0", "own: k=2.0 is not allowed; expected an integer"),
    ],
)
def test_real_numbers_that_are_refused(spec, message):
    register("own")(Tempered)
    with pytest.raises(ValueError, match=re.escape(message)):
        build(spec)
    with pytest.raises(ValueError, match="heat=True is not allowed"):
        build("own", heat=True)


def test_a_model_keeps_real_numbers(tmp_path):
    register("own")(Tempered)
    ids = torch.arange(1, 9)[None]
    model = AutoModelForCausalLM.from_config(tiny_config("gpt2"), attn_implementation="own:heat=0.5").eval()
    cold = model(ids).logits
    assert hf_semfocus.verify(model, input_ids=ids)["transformer.h.0.attn"] == "own:k=2,heat=0.5,share=0.25"
    assert "own:k=2,heat=0.5,share=0.25" in str(hf_semfocus.explain(model, input_ids=ids))
    hf_semfocus.configure(model, heat=1.25)
    assert not torch.allclose(model(ids).logits, cold)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.semfocus == {"heat": 1.25}
    assert torch.equal(again(ids).logits, model(ids).logits)
    with pytest.raises(ValueError, match=r"heat=9.0 is not allowed.*\(config.semfocus=\{'heat': 9.0\}\)"):
        hf_semfocus.configure(model, heat=9.0)


def test_parameters_are_named_once_the_own_ones_first():
    @dataclass(frozen=True, kw_only=True)
    class Warm(Tempered):
        late: int = count(3, "more")
        heat: float = real(2.0, "temperature", above=0)

    assert parameters(Warm) == ["late", "k", "heat", "share"]
    assert parameters(mechanisms.get("strided_sparse"))[:2] == ["stride", "window"]
