"""Adapters keep the attention whoever saves them, and give it back whoever loads them."""

import json
import subprocess
import sys
import warnings
from importlib import metadata

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from packaging.version import Version
from peft import (
    AutoPeftModelForCausalLM,
    AutoPeftModelForSequenceClassification,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
)
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.integrations.peft import MIN_PEFT_VERSION

import hf_semfocus

IDS = torch.arange(3, 27).view(2, 12)
SPEC = "topk_sparse:k=2"
KINDS = {
    "gpt2": (AutoModelForCausalLM, AutoPeftModelForCausalLM, "CAUSAL_LM", "c_attn"),
    "bert": (AutoModelForSequenceClassification, AutoPeftModelForSequenceClassification, "SEQ_CLS", "query"),
}
NAMES = {0: "ham", 1: "spam", 2: "eggs"}


def lora(family):
    _, _, task, target = KINDS[family]
    return LoraConfig(
        task_type=task, target_modules=[target], init_lora_weights=False, fan_in_fan_out=family == "gpt2"
    )


def prepare(family, root):
    """A dense base model, and an adapter trained on it with an attention of ours, as folders."""
    torch.manual_seed(0)
    auto = KINDS[family][0]
    auto.from_config(tiny_config(family)).save_pretrained(root / "base")
    base = auto.from_pretrained(root / "base", attn_implementation=SPEC)
    get_peft_model(base, lora(family)).save_pretrained(root / "adapter")
    return root


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return prepare("gpt2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return prepare("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(params=list(KINDS))
def family(request):
    return request.param


@pytest.fixture
def folders(family, request):
    return request.getfixturevalue(family)


def used(model):
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(hf_semfocus.verify(base, input_ids=IDS).values())


def load_into_existing(auto, folders):
    model = auto.from_pretrained(folders / "base")
    model.load_adapter(str(folders / "adapter"))
    return model


def load_second(auto, folders):
    model = get_peft_model(auto.from_pretrained(folders / "base"), PeftConfig.from_pretrained(folders / "adapter"))
    assert model.get_base_model().config._attn_implementation == "sdpa"  # new matrices, not the adapter's
    model.load_adapter(folders / "adapter", "second")
    model.set_adapter("second")
    return model


ROUTES = {
    "PeftModel.from_pretrained": lambda auto, peft, folders: PeftModel.from_pretrained(
        auto.from_pretrained(folders / "base"), folders / "adapter"
    ),
    "with a configuration": lambda auto, peft, folders: PeftModel.from_pretrained(
        auto.from_pretrained(folders / "base"),
        folders / "adapter",
        config=PeftConfig.from_pretrained(folders / "adapter"),
    ),
    "AutoPeftModel": lambda auto, peft, folders: peft.from_pretrained(folders / "adapter"),
    "AutoModel": lambda auto, peft, folders: auto.from_pretrained(folders / "adapter"),
    "model.load_adapter": lambda auto, peft, folders: load_into_existing(auto, folders),
    "PeftModel.load_adapter": lambda auto, peft, folders: load_second(auto, folders),
    "hf_semfocus.load_adapter": lambda auto, peft, folders: hf_semfocus.load_adapter(folders / "adapter"),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_restores_the_attention(route, family, folders):
    auto, peft, *_ = KINDS[family]
    sparse = PeftModel.from_pretrained(auto.from_pretrained(folders / "base"), folders / "adapter").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = ROUTES[route](auto, peft, folders).eval()
    assert used(model) == {SPEC}
    torch.testing.assert_close(model(IDS).logits, sparse(IDS).logits, rtol=0, atol=0)
    hf_semfocus.configure(sparse.get_base_model(), "sdpa")
    assert not torch.allclose(model(IDS).logits, sparse(IDS).logits)


def test_pipeline(tmp_path, folders, family):
    words = {f"w{number}": number for number in range(VOCABULARY)}
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *list(words)[4:]]))
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    task = "text-generation" if family == "gpt2" else "text-classification"
    pipe = pipeline(task, model=str(folders / "adapter"), tokenizer=tokenizer)
    assert used(pipe.model) == {SPEC}
    assert pipe("w5 w6 w7")


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"input_ids": IDS[index % 2], "labels": IDS[index % 2]}


def test_checkpoints_of_trainer_and_resuming_from_them(tmp_path, gpt2):
    arguments = {"report_to": [], "save_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True}

    def trainer(attention, steps):
        base = AutoModelForCausalLM.from_pretrained(gpt2 / "base", attn_implementation=attention)
        options = TrainingArguments(str(tmp_path), max_steps=steps, **arguments)
        return Trainer(get_peft_model(base, lora("gpt2")), options, train_dataset=Rows())

    first = trainer(SPEC, 1)
    first.train()
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1").eval()
    assert used(loaded) == {SPEC}
    assert torch.equal(loaded(IDS).logits, first.model.eval()(IDS).logits)
    assert used(AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1")) == {SPEC}

    forgotten = trainer(None, 2)
    forgotten.train(resume_from_checkpoint=True)
    assert used(forgotten.model) == {SPEC}
    other = trainer("topk_sparse:k=3", 3)
    with pytest.warns(
        UserWarning, match="trained with the attention 'topk_sparse:k=2', but .* given 'topk_sparse:k=3'"
    ):
        other.train(resume_from_checkpoint=True)
    assert used(other.model) == {"topk_sparse:k=3"}


@pytest.mark.skipif(
    Version(metadata.version("peft")) < Version(MIN_PEFT_VERSION), reason="Transformers wants a newer PEFT here"
)
def test_an_adapter_of_transformers_own(tmp_path, folders, family):
    auto = KINDS[family][0]
    model = auto.from_pretrained(folders / "base")
    model.add_adapter(lora(family))
    hf_semfocus.configure(model, "topk_sparse", k=4)
    model.save_pretrained(tmp_path)
    assert used(auto.from_pretrained(tmp_path)) == {"topk_sparse:k=4"}
    hf_semfocus.configure(model, "sdpa")
    model.save_pretrained(tmp_path)
    assert auto.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    assert "hf_semfocus" not in json.loads((tmp_path / "adapter_config.json").read_text())


@pytest.mark.parametrize("name", ["sdpa", "eager", "topk_sparse:k=3", "banded_sparse"])
def test_an_attention_that_was_asked_for_stays_and_a_warning_says_so(name, folders, family):
    auto, peft, *_ = KINDS[family]
    adapter = folders / "adapter"
    asked = auto.from_pretrained(folders / "base")
    asked.set_attn_implementation(name)
    for load in (
        lambda: PeftModel.from_pretrained(auto.from_pretrained(folders / "base", attn_implementation=name), adapter),
        lambda: peft.from_pretrained(adapter, attn_implementation=name),
        lambda: auto.from_pretrained(adapter, attn_implementation=name),
        lambda: PeftModel.from_pretrained(asked, adapter),
    ):
        with pytest.warns(UserWarning, match=r"with the attention 'topk_sparse:k=2', but its base model was given '"):
            model = load()
        assert model.config._attn_implementation == name
    base = auto.from_pretrained(folders / "base", attn_implementation=name)
    assert used(hf_semfocus.load_adapter(adapter, base)) == {SPEC}


def test_an_adapter_knows_better_than_the_checkpoint_of_its_base_model(tmp_path, folders, family):
    auto, peft, *_ = KINDS[family]
    auto.from_pretrained(folders / "base", attn_implementation="topk_sparse:k=5").save_pretrained(tmp_path / "base")
    for name in (SPEC, "sdpa"):
        base = auto.from_pretrained(tmp_path / "base", attn_implementation=name)
        get_peft_model(base, lora(family)).save_pretrained(tmp_path / "adapter")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model = peft.from_pretrained(tmp_path / "adapter")
        assert model.config._attn_implementation == name


def test_names_and_number_of_classes_come_back(tmp_path):
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config("bert")).save_pretrained(tmp_path / "base")
    options = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}
    base = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", attn_implementation=SPEC, **options
    ).eval()
    trained = get_peft_model(base, lora("bert")).eval()
    trained.save_pretrained(tmp_path / "adapter")
    unnamed = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    for model in (
        hf_semfocus.load_adapter(tmp_path / "adapter"),
        hf_semfocus.load_adapter(tmp_path / "adapter", str(tmp_path / "base")),
        hf_semfocus.load_adapter(tmp_path / "adapter", unnamed),
        AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=3),
    ):
        assert model.config.id2label == NAMES
        assert model.config.label2id == options["label2id"]
        assert torch.equal(model.eval()(IDS).logits, trained(IDS).logits)
    named = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", id2label={0: "a", 1: "b", 2: "c"})
    assert PeftModel.from_pretrained(named, tmp_path / "adapter").config.id2label == {0: "a", 1: "b", 2: "c"}


def test_the_code_in_the_card_of_an_adapter_runs_as_printed(tmp_path):
    AutoModel.from_config(tiny_config("bert")).save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", attn_implementation=SPEC, id2label=NAMES, label2id={v: k for k, v in NAMES.items()}
    )
    adapter = get_peft_model(base, lora("bert")).eval()
    with pytest.warns(UserWarning, match="the base model is the folder"):
        hf_semfocus.push_to_hub(adapter, None, "owner/adapter", dry_run=tmp_path / "published")
    code = (tmp_path / "published" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert code.count('"..."') == code.count('"owner/adapter"') == 1
    scope = {}
    exec(
        code.replace('"..."', repr(str(tmp_path / "base"))).replace("owner/adapter", str(tmp_path / "published")),
        scope,
    )
    assert scope["model"].config.id2label == NAMES
    assert torch.equal(scope["model"].eval()(IDS).logits, adapter(IDS).logits)


def test_parts_of_a_model_have_attentions_of_their_own(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    text, vision = {**sizes, "vocab_size": VOCABULARY, "eos_token_id": 2}, {**sizes, "image_size": 8, "patch_size": 4}
    CLIPModel._from_config(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path / "base")
    model = CLIPModel.from_pretrained(tmp_path / "base", attn_implementation={"text_config": SPEC})
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(CLIPModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert loaded.config.text_config._attn_implementation == SPEC
    assert loaded.config.vision_config._attn_implementation == "sdpa"
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["hf_semfocus"]["attention"]["no_config"] = SPEC
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the CLIPModel it is for has no such parts"):
        PeftModel.from_pretrained(CLIPModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter")


def nested(levels, kind):
    value = SPEC
    for _ in range(levels):
        value = {"": value} if kind is dict else [value]
    return value


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "hf_semfocus=3; expected a dict such as"),
        (SPEC, "hf_semfocus='topk_sparse:k=2'; expected"),
        ([], r"hf_semfocus=\[\]; expected"),
        ({}, r"hf_semfocus=\{\}; expected"),
        ({"attention": SPEC, "more": 1}, "hf_semfocus=.*; expected"),
        ({"attention": None}, "attention=None is not known"),
        ({"attention": 8}, "attention=8 is not known"),
        ({"attention": {"": None}}, "attention=.* is not known"),
        ({"attention": {"": 0}}, "attention=.* is not known"),
        ({"attention": {"": 0, "a": SPEC}}, "attention=0 is not known"),
        (
            {"attention": "org/kernel"},
            "attention='org/kernel' is not known; expected one of asentmax_sparse, .*topk_sparse",
        ),
        ({"attention": "topk_sparse:k=0"}, "k=0 is not allowed"),
        ({"attention": "x" * 100_000}, "attention='xxx"),
        ({"attention": nested(500, dict)}, "is not known"),
        ({"attention": nested(500, list)}, "is not known"),
        ({"attention": SPEC, "id2label": ["a"]}, r"id2label=\['a'\]; expected names of numbered classes"),
        ({"attention": SPEC, "id2label": {"a": "b"}}, "expected names of numbered"),
        ({"attention": SPEC, "id2label": {"0": nested(500, list)}}, "expected names of numbered"),
        ({"attention": SPEC, "id2label": {"9" * 9999: "b"}}, "limit"),
    ],
)
def test_hostile_entries(entry, message, folders, family, tmp_path):
    auto, peft, *_ = KINDS[family]
    for file in (folders / "adapter").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "hf_semfocus": entry}))
    for load in (
        lambda: peft.from_pretrained(tmp_path),
        lambda: auto.from_pretrained(tmp_path),
        lambda: hf_semfocus.load_adapter(tmp_path),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            load()
        assert len(str(caught.value)) < 1000
        assert "\n" not in str(caught.value)


def test_hotswap_is_for_one_attention(tmp_path, gpt2):
    from peft.utils.hotswap import hotswap_adapter as hotswap

    model = AutoPeftModelForCausalLM.from_pretrained(gpt2 / "adapter")
    hotswap(model, str(gpt2 / "adapter"), "default", torch_device="cpu")
    for attention in ("topk_sparse:k=3", "sdpa"):
        other = AutoModelForCausalLM.from_pretrained(gpt2 / "base", attn_implementation=attention)
        get_peft_model(other, lora("gpt2")).save_pretrained(tmp_path / attention)
        with pytest.raises(ValueError, match=f"with the attentions '{SPEC}' and '{attention}'; expected the same"):
            hotswap(model, str(tmp_path / attention), "default", torch_device="cpu")


def test_without_the_package_peft_names_it_and_with_it_all_is_well(gpt2):
    code = (
        "import sys, warnings\n"
        "from peft import PeftConfig\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    PeftConfig.from_pretrained(sys.argv[1])\n"
        "print(*[warning.message for warning in caught])\n"
        "assert 'hf_semfocus' not in sys.modules\n"
        "import hf_semfocus\n"
        "warnings.simplefilter('error')\n"
        "assert 'hf_semfocus' in PeftConfig.from_pretrained(sys.argv[1]).to_dict()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, gpt2 / "adapter"], capture_output=True, text=True, check=True)
    assert "['hf_semfocus'] for class LoraConfig, these are ignored" in done.stdout


@pytest.mark.slow
def test_peft_is_wrapped_when_it_is_imported_later():
    code = (
        "import sys, hf_semfocus\nassert 'peft' not in sys.modules\nimport peft\n"
        "assert peft.PeftModel.load_adapter._semfocus and peft.PeftModel.save_pretrained._semfocus"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_changes_without_our_attentions(tmp_path, folders, family):
    auto = KINDS[family][0]
    get_peft_model(auto.from_pretrained(folders / "base"), lora(family)).save_pretrained(tmp_path)
    assert "hf_semfocus" not in (tmp_path / "adapter_config.json").read_text()
    assert "_semfocus" not in (folders / "base" / "config.json").read_text()
    chosen = auto.from_pretrained(folders / "base", attn_implementation=SPEC)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert used(PeftModel.from_pretrained(chosen, tmp_path)) == {SPEC}
