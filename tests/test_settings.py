"""A configuration says one thing about its attention, whoever set it last and however it was set."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPConfig,
    GPT2Config,
    PreTrainedTokenizerFast,
    T5Config,
    pipeline,
)

import hf_semfocus
from hf_semfocus.hf import settings


def ids():
    return torch.arange(3, 27).view(2, 12)


def model(spec, family="llama", **changes):
    return AutoModelForCausalLM.from_config(tiny_config(family, **changes), attn_implementation=spec).eval()


def used(built, **inputs):
    [spec] = set(hf_semfocus.verify(built, **(inputs or {"input_ids": ids()})).values())
    return spec


def saved(folder):
    config = json.loads((folder / "config.json").read_text())
    return config.get("attn_implementation"), config.get("semfocus")


def clip(**kwargs):
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32}
    return CLIPConfig(
        text_config={**sizes, "vocab_size": VOCABULARY, "eos_token_id": 26},
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        **kwargs,
    )


def seen(built):
    return set(hf_semfocus.verify(built, input_ids=ids(), pixel_values=torch.ones(2, 3, 8, 8)).values())


def t5():
    return T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=VOCABULARY)


@pytest.mark.parametrize(
    "change",
    [
        lambda built: hf_semfocus.configure(built, k=8),
        lambda built: setattr(built.config, "semfocus", {"k": 8}),
        lambda built: hf_semfocus.configure(built, "topk_sparse", k=8),
        lambda built: hf_semfocus.configure(built, "topk_sparse:k=8"),
        lambda built: built.config.update({"semfocus": {"k": 8}}),
        lambda built: setattr(built.config, "_attn_implementation", "topk_sparse:k=8"),
    ],
)
@pytest.mark.parametrize("way", ["made", "loaded", "copied", "pickled"])
def test_what_is_set_after_the_name_counts_and_is_saved(change, way, tmp_path):
    built = model("topk_sparse:k=3")
    if way == "loaded":
        built.save_pretrained(tmp_path / "first")
        built = AutoModelForCausalLM.from_pretrained(tmp_path / "first").eval()
    built = {"copied": copy.deepcopy, "pickled": lambda m: pickle.loads(pickle.dumps(m))}.get(way, lambda m: m)(built)
    assert (used(built), built.config.semfocus) == ("topk_sparse:k=3", {"k": 3})
    change(built)
    assert (used(built), built.config.semfocus) == ("topk_sparse:k=8", {"k": 8})
    built.save_pretrained(tmp_path)
    assert saved(tmp_path) in [("topk_sparse", {"k": 8}), ("topk_sparse:k=8", None), ("topk_sparse:k=8", {})]
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (used(again), again.config.semfocus) == ("topk_sparse:k=8", {"k": 8})
    assert torch.equal(again(ids()).logits, built(ids()).logits)


def test_parameters_exist_whenever_a_name_of_ours_is_in_force():
    assert model("topk_sparse").config.semfocus == {}
    assert model("topk_sparse:k=3").config.semfocus == {"k": 3}
    assert model("banded_sparse:window=3", semfocus={"edge": "cut"}).config.semfocus == {"window": 3, "edge": "cut"}
    assert GPT2Config(attn_implementation="topk_sparse:k=3").semfocus == {"k": 3}
    assert not hasattr(model("sdpa").config, "semfocus")
    dense = model("topk_sparse:k=3")
    dense.set_attn_implementation("sdpa")
    assert not hasattr(dense.config, "semfocus")


def test_parameters_of_a_name_go_with_it_and_those_of_the_configuration_stay():
    built = model("topk_sparse:k=3")
    for name, expected in [("bottomk_sparse", 64), ("topk_sparse:k=5", 5), ("sdpa", None), ("topk_sparse", 64)]:
        built.set_attn_implementation(name)
        assert expected is None or used(built) == f"{name.partition(':')[0]}:k={expected}"
    built.config.semfocus = {"k": 16}
    for name in ("sdpa", "topk_sparse", "bottomk_sparse"):
        built.set_attn_implementation(name)
    assert used(built) == "bottomk_sparse:k=16"


@pytest.mark.parametrize(
    ("kept", "name", "expected"),
    [
        (("topk_sparse", {"k": 16}), "topk_sparse:k=3", "topk_sparse:k=3"),
        (("topk_sparse", {"k": 16}), "topk_sparse", "topk_sparse:k=16"),
        (("topk_sparse", {"k": 16}), "bottomk_sparse", "bottomk_sparse:k=16"),
        (("topk_sparse:k=16", {}), "bottomk_sparse", "bottomk_sparse:k=64"),
        (("topk_sparse", {"k": 16}), None, "topk_sparse:k=16"),
        (("banded_sparse", {"window": 4, "edge": "cut"}), "topk_sparse:k=3", "topk_sparse:k=3"),
        (
            ("banded_sparse", {"window": 4, "edge": "cut"}),
            "banded_sparse:window=8",
            "banded_sparse:window=8,edge=cut,num_global_tokens=0,global_position=first",
        ),
    ],
)
@pytest.mark.parametrize("load", ["model", "config", "live"])
def test_a_name_given_beside_saved_parameters_has_one_outcome(kept, name, expected, load, tmp_path):
    built = model(kept[0], "gpt2")
    if kept[1]:
        built.config.semfocus = kept[1]
    built.save_pretrained(tmp_path)
    if load == "model":
        built = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=name)
    elif load == "config":
        built = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path, attn_implementation=name))
    else:
        built.set_attn_implementation(name)
    assert used(built.eval()) == expected
    built.save_pretrained(tmp_path / "again")
    assert used(AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()) == expected


@pytest.mark.parametrize("load", ["model", "live"])
def test_contradictions_are_refused_and_change_nothing(load, tmp_path):
    built = model("topk_sparse", "gpt2")
    built.config.semfocus = {"k": 4}
    built.save_pretrained(tmp_path)
    uses = {
        "live": built.set_attn_implementation,
        "model": lambda name: AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=name),
    }
    with pytest.raises(ValueError, match=r"banded_sparse has no parameter 'k' .*\(config.semfocus=\{'k': 4\}\)"):
        uses[load]("banded_sparse")
    built.set_attn_implementation("topk_sparse:k=2")
    with pytest.raises(ValueError, match="'topk_sparse:k=3' contradicts k=5; expected it once"):
        hf_semfocus.configure(built, "topk_sparse:k=3", k=5)
    with pytest.raises(ValueError, match="k=0 is not allowed"):
        hf_semfocus.configure(built, k=0)
    with pytest.raises(ValueError, match="no parameter 'k'"):
        hf_semfocus.configure(built, "banded_sparse", k=4)
    assert (built.config._attn_implementation, used(built)) == ("topk_sparse:k=2", "topk_sparse:k=2")
    with pytest.raises(
        ValueError, match=r"config.semfocus=\{'k': 2\} cannot be changed in place; expected a new dict"
    ):
        built.config.semfocus["k"] = 5
    assert json.loads(json.dumps(built.config.semfocus)) == copy.deepcopy(built.config.semfocus) == {"k": 2}


def test_a_checkpoint_that_says_two_things_means_its_name(tmp_path):
    model("topk_sparse:k=3", "gpt2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "semfocus": {"k": 16, "backend": "eager"}}))
    built = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (used(built), built.config.semfocus) == ("topk_sparse:k=3", {"k": 3, "backend": "eager"})
    built.save_pretrained(tmp_path / "again")
    assert saved(tmp_path / "again") == ("topk_sparse:k=3", {"backend": "eager"})


@pytest.mark.parametrize("spec", ["topk_sparse:k=3", "topk_sparse"])
def test_no_preference_is_none(spec, tmp_path):
    built = model(spec, "gpt2")
    built.save_pretrained(tmp_path)
    loads = [
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=None),
        type(built).from_pretrained(tmp_path, attn_implementation=None),
        AutoModelForCausalLM.from_pretrained(
            tmp_path, config=AutoConfig.from_pretrained(tmp_path), attn_implementation=None
        ),
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path), attn_implementation=None),
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path, attn_implementation=None)),
        AutoModelForCausalLM.from_config(GPT2Config.from_pretrained(tmp_path, attn_implementation=None)),
    ]
    built.set_attn_implementation(None)
    for each in [built, *loads]:
        assert each.config._attn_implementation == spec
        assert used(each.eval()).startswith(spec)
    dense = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa")
    dense.set_attn_implementation(None)
    dense.save_pretrained(tmp_path / "dense")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", attn_implementation=None)
    assert loaded.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("dense", [True, False])
def test_name_and_parameters_can_be_given_together_when_loading(dense, tmp_path):
    model("sdpa" if dense else "topk_sparse:k=7", "gpt2").save_pretrained(tmp_path)
    load = AutoModelForCausalLM.from_pretrained
    given = load(tmp_path, attn_implementation="topk_sparse:k=3", semfocus={"backend": "eager"}).eval()
    assert (used(given), given.config.semfocus) == ("topk_sparse:k=3", {"k": 3, "backend": "eager"})
    assert used(load(tmp_path, attn_implementation="topk_sparse", semfocus={"k": 5}).eval()) == "topk_sparse:k=5"
    with pytest.raises(ValueError, match="'topk_sparse:k=3' contradicts k=5; expected it once"):
        load(tmp_path, attn_implementation="topk_sparse:k=3", semfocus={"k": 5})


def test_no_preference_in_a_pipeline(tmp_path):
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", "the", "quick", "fox"])}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path)
    model("topk_sparse:k=3", "gpt2").save_pretrained(tmp_path)
    made = pipeline("text-generation", str(tmp_path), model_kwargs={"attn_implementation": None})
    assert used(made.model) == "topk_sparse:k=3"


def test_no_preference_for_a_part(tmp_path):
    built = AutoModel.from_config(clip(), attn_implementation={"text_config": "topk_sparse:k=2"})
    built.save_pretrained(tmp_path)
    for given in (None, {}, {"text_config": None}, {"vision_config": None}, {"vision_config": "eager"}):
        vision = "eager" if given == {"vision_config": "eager"} else "sdpa"
        again = AutoModel.from_pretrained(tmp_path, attn_implementation=given).eval()
        live = copy.deepcopy(built)
        live.set_attn_implementation(given)
        for each in (again, live):
            names = [part.config._attn_implementation for part in (each.text_model, each.vision_model)]
            assert names == ["topk_sparse:k=2", vision], given
    whole = AutoModel.from_config(clip(), attn_implementation="topk_sparse:k=2")
    whole.save_pretrained(tmp_path / "whole")
    again = AutoModel.from_pretrained(tmp_path / "whole", attn_implementation={"vision_config": "sdpa"})
    assert again.config._attn_implementation == again.text_model.config._attn_implementation == "topk_sparse:k=2"
    assert again.vision_model.config._attn_implementation == "sdpa"


def test_parts_follow_the_whole_unless_they_have_a_say_of_their_own(tmp_path):
    built = AutoModel.from_config(clip(semfocus={"k": 1}), attn_implementation="topk_sparse").eval()
    parts = [built.config.text_config, built.config.vision_config]
    assert seen(built) == {"topk_sparse:k=1"}
    assert [part.semfocus for part in parts] == [{"k": 1}, {"k": 1}]
    built.config.semfocus = {"k": 2}
    assert seen(built) == {"topk_sparse:k=2"}
    parts[0].semfocus = {}
    assert seen(built) == {"topk_sparse:k=64", "topk_sparse:k=2"}
    for hop in "ab":
        built.save_pretrained(tmp_path / hop)
        built = AutoModel.from_pretrained(tmp_path / hop).eval()
        assert seen(built) == {"topk_sparse:k=64", "topk_sparse:k=2"}
    hf_semfocus.configure(built, k=3)
    assert seen(built) == {"topk_sparse:k=3"}
    built.set_attn_implementation({"text_config": "banded_sparse:window=3", "vision_config": "topk_sparse:k=4"})
    assert [part.semfocus for part in (built.config.text_config, built.config.vision_config)] == [
        {"window": 3},
        {"k": 4},
    ]
    with pytest.raises(ValueError, match="banded_sparse has no parameter 'k'"):
        hf_semfocus.configure(built, k=5)
    assert built.config.text_config.semfocus == {"window": 3}


def test_copies_that_the_layers_of_a_part_hold_follow_that_part():
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**small, "image_size": 16, "patch_size": 8},
        qformer_config={**small, "vocab_size": VOCABULARY, "encoder_hidden_size": 16},
        text_config=T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
        image_token_index=VOCABULARY - 1,
    )
    built = Blip2ForConditionalGeneration(config)
    stacks = built.language_model.encoder, built.language_model.decoder
    for name in ("topk_sparse:k=2", "banded_sparse:window=3", "sdpa"):
        built.set_attn_implementation({"text_config": name})
        assert [stack.config._attn_implementation for stack in stacks] == [name, name]
        assert built.config._attn_implementation == built.vision_model.config._attn_implementation == "sdpa"


def test_parts_without_parameters_of_their_own_take_those_of_the_whole_when_loaded(tmp_path):
    AutoModel.from_config(clip(), attn_implementation="topk_sparse").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part].pop("semfocus", None)
    (tmp_path / "config.json").write_text(json.dumps({**config, "semfocus": {"k": 1}}))
    assert seen(AutoModel.from_pretrained(tmp_path).eval()) == {"topk_sparse:k=1"}


def test_copies_of_a_configuration_may_not_differ_from_what_is_saved(tmp_path):
    built = AutoModel.from_config(t5(), attn_implementation="topk_sparse:k=3").eval()
    inputs = {"input_ids": ids(), "decoder_input_ids": ids()}
    assert used(built, **inputs) == "topk_sparse:k=3"
    built.config.semfocus = {"k": 4}
    with pytest.raises(ValueError, match=r"\{'k': 4\} on the model but \{'k': 3\} .*hf_semfocus.configure"):
        built(**inputs)
    hf_semfocus.configure(built, k=5)
    assert used(built, **inputs) == "topk_sparse:k=5"
    built.set_attn_implementation("topk_sparse:k=6")
    assert used(built, **inputs) == "topk_sparse:k=6"
    built.save_pretrained(tmp_path)
    assert used(AutoModel.from_pretrained(tmp_path).eval(), **inputs) == "topk_sparse:k=6"


@pytest.mark.parametrize(
    "names", [("topk_sparse:k=3", "sdpa"), ("sdpa", "topk_sparse:k=3"), ("topk_sparse:k=3", None)]
)
def test_a_second_model_of_one_configuration_leaves_the_first_alone(names):
    first = model(names[0])
    second = AutoModelForCausalLM.from_config(first.config, attn_implementation=names[1])
    assert first.config._attn_implementation == names[0]
    assert second.config._attn_implementation == (names[1] or names[0])


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


DEEP = nested(500)
LONG = "x" * 100_000


@pytest.mark.parametrize(
    "value",
    [
        {"backend": []},
        {"backend": {}},
        {"backend": DEEP},
        {"backend": nested(200)},
        {"backend": LONG},
        {"backend": None},
        {"k": DEEP},
        {"k": {"k": DEEP}},
        {"k": 10**30},
        {"k": float("nan")},
        {LONG: 1},
        {"k\n": 1},
        {1: 2},
        {None: 2},
        DEEP,
        LONG,
        "k=3",
        ["k"],
        3.5,
        True,
    ],
)
def test_odd_parameters_are_refused_in_one_short_line(value, tmp_path):
    built = model("topk_sparse", "gpt2")
    built.save_pretrained(tmp_path)
    built.config.semfocus = value
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "semfocus": value}))
    for use in (
        lambda: built(ids()),
        lambda: model("topk_sparse", semfocus=value),
        lambda: AutoModelForCausalLM.from_pretrained(tmp_path),
        lambda: settings.resolve("topk_sparse", value),
    ):
        with pytest.raises(ValueError, match=r"semfocus|parameter|backend|allowed|nested") as caught:
            use()
        assert len(str(caught.value)) < 600
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        ["topk_sparse"],
        3,
        True,
        b"topk_sparse",
        "topk_sparse\n",
        "topk_sparse:k=3\nroot",
        {"": ["topk_sparse"]},
        {"": nested(200)},
        nested(200),
        f"topk_sparse:k={LONG}",
        f"topk_sparse:{LONG}=1",
        f"topk_sparse:k={'9' * 5000}",
        LONG,
        "paged|topk_sparse",
    ],
)
def test_odd_names_are_refused_in_one_short_line(value, tmp_path):
    built = model("topk_sparse", "gpt2")
    built.save_pretrained(tmp_path)
    uses = [
        lambda: built.set_attn_implementation(value),
        lambda: model(value),
        lambda: AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=value),
    ]
    if not isinstance(value, bytes):
        hostile = tmp_path / "hostile"
        model("sdpa", "gpt2").save_pretrained(hostile)
        config = json.loads((hostile / "config.json").read_text())
        (hostile / "config.json").write_text(json.dumps({**config, "attn_implementation": value}))
        uses.append(lambda: AutoModelForCausalLM.from_pretrained(hostile))
    for use in uses:
        with pytest.raises(ValueError, match=r"allowed|not supported|parameter|read|nested") as caught:
            use()
        assert len(str(caught.value)) < 1200
        assert "\n" not in str(caught.value)
    assert used(built) == "topk_sparse:k=64"


def test_mechanisms_are_remembered_up_to_a_bound_and_by_several_threads():
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda k: settings.resolve("topk_sparse", {"k": k % 700 + 1})[0].k, range(2800)))
    assert made == [k % 700 + 1 for k in range(2800)]
    held = [each for each in vars(settings).values() if hasattr(each, "cache_info")]
    assert held
    assert all(each.cache_info().currsize <= 512 for each in held)


def test_models_are_made_run_and_verified_by_several_threads():
    def one(k):
        built = model(f"topk_sparse:k={k}", "gpt2")
        hf_semfocus.configure(built, k=k + 1)
        return used(built)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(1, 9))) == [f"topk_sparse:k={k + 1}" for k in range(1, 9)]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_configuration_may_ask_for_weights(family, tmp_path):
    built = model("topk_sparse:k=3", family)
    assert not built(ids()).attentions
    built.config.output_attentions = True
    loaded = None
    for hop in "ab":
        built.save_pretrained(tmp_path / hop)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / hop).eval()
    dense = model("sdpa", family)
    dense.save_pretrained(tmp_path / "dense")
    asked = AutoModelForCausalLM.from_pretrained(
        tmp_path / "dense", output_attentions=True, attn_implementation="topk_sparse:k=3"
    ).eval()
    for each in (built, loaded, asked):
        assert each.config.output_attentions
        weights = each(ids()).attentions
        assert [int((layer > 0).sum(-1).max()) for layer in weights] == [3, 3]
    generated = asked.generate(ids(), max_new_tokens=2, return_dict_in_generate=True, output_attentions=True)
    assert [layer.shape[-1] for layer in generated.attentions[1]] == [13, 13]
    asked.generation_config.output_attentions = True
    generated = asked.generate(ids(), max_new_tokens=2, return_dict_in_generate=True)
    assert int((generated.attentions[1][0] > 0).sum(-1).max()) == 3
    with pytest.raises(ValueError, match="Please set it to 'eager'"):
        dense.config.output_attentions = True


def test_a_compiled_graph_follows_parameters_that_replace_those_of_the_name():
    built = model("topk_sparse:k=3", num_hidden_layers=1)
    compiled = torch.compile(built, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        first = compiled(ids()).logits
        built.config.semfocus = {"k": 2, "backend": "eager"}
        second = compiled(ids()).logits
        torch.testing.assert_close(second, built(ids()).logits)
    assert not torch.allclose(first, second)
    torch._dynamo.reset()
