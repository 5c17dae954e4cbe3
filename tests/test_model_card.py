"""The model card says what the model is and what was measured, and no more."""

import collections
import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import VOCABULARY, tiny_config
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, T5Config, T5ForConditionalGeneration, ViTConfig
from transformers import AutoModelForImageClassification as ImageClassifier

import hf_semfocus
from hf_semfocus import hub, mechanisms
from hf_semfocus.hub import CardDetails, merge
from hf_semfocus.hub.card import render
from hf_semfocus.hub.describe import describe

ROOT = Path(__file__).parents[1]
SPEC = "topk_sparse:k=3"
BEGIN, END = merge.BEGIN, merge.END


def result(attention=SPEC, values=None, **changes):
    fields = {"metric": "accuracy", "dataset": "even_pairs", "split": "test", **changes}
    return hub.Result(attention=attention, values={0: 0.75, 1: 0.875} if values is None else values, **fields)


RESULTS = [result("sdpa", {0: 0.5, 1: 0.625}), result()]


def tiny(family="gpt2", attention=SPEC, **settings):
    cls = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    model = cls.from_config(tiny_config(family), attn_implementation=attention)
    if settings:
        model.config.semfocus = settings
    return model


@pytest.fixture(scope="module")
def model():
    return tiny()


def card(model, results=(), **details):
    text = hub.model_card(model, "owner/name", results, **details)
    return ModelCard(text), text.partition("\n---\n")[2]


def rows(text, first):
    """Cells of the table whose first column is called ``first``."""
    table = re.search(rf"^\| {re.escape(first)} \|.*\n\| ---.*\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


@pytest.mark.parametrize("name", mechanisms.names())
def test_mechanism_with_all_its_parameters(name):
    parsed, text = card(tiny("bert", name))
    cls = mechanisms.get(name)
    assert {"sparse-attention", "semantic-focus", name} <= set(parsed.data.tags)
    assert f"**`{name}`**: Every query keeps" in text
    fields = mechanisms.fields(cls)
    expected = [[f"`{p}`", str(fields[p].default), fields[p].metadata["meaning"]] for p in cls().in_force]
    assert rows(text, "parameter") == expected


def test_layers_are_those_of_the_model():
    model = tiny("llama", "banded_sparse", window=4)
    _, text = card(model)
    spec = "banded_sparse:window=4,edge=shifted,num_global_tokens=0,global_position=first"
    layers = "`model.layers.0.self_attn`, `model.layers.1.self_attn`"
    assert rows(text, "attention") == [[f"`{spec}`", "2", layers]]
    assert set(hf_semfocus.verify(model).values()) == {spec}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert f"`LlamaForCausalLM` with {parameters:,} parameters and sparse attention: `{spec}`." in text


def test_static_patterns_leave_cross_attention_dense():
    config = T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=VOCABULARY)
    model = T5ForConditionalGeneration._from_config(config, attn_implementation="banded_sparse")
    parsed, text = card(model)
    assert [row[:2] for row in rows(text, "attention")][1] == ["`full`", "1"]
    assert "static patterns leave cross-attention as it is" in text
    assert "model = AutoModelForSeq2SeqLM.from_pretrained" in text
    assert parsed.data.pipeline_tag is None
    banded = result(rows(text, "attention")[0][0].strip("`"))
    with pytest.raises(ValueError, match=r"does not determine its task; expected task=..., such as"):
        card(model, [banded])
    assert card(model, [banded], task="translation")[0].data.pipeline_tag == "translation"


def test_other_inputs():
    config = ViTConfig(image_size=8, patch_size=4, num_hidden_layers=1, hidden_size=32, num_attention_heads=4)
    model = ImageClassifier.from_config(config, attn_implementation="topk_sparse:k=2")
    with pytest.raises(ValueError, match=r"cannot run ViTForImageClassification on a few token ids .*example_inputs"):
        card(model)
    parsed, _ = card(model, example_inputs={"pixel_values": torch.zeros(1, 3, 8, 8)})
    assert parsed.data.pipeline_tag == "image-classification"


def test_describing_changes_nothing(model):
    model.train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    card(model)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)


def test_own_encoder_is_loaded_through_its_package():
    from hf_semfocus.models import Sizes, build_model

    sizes = Sizes(vocab_size=3, num_labels=2, pad_token_id=0, max_length=8)
    encoder = build_model("classification", "paper", SPEC, sizes)
    _, text = card(encoder)
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].splitlines()
    assert code[0] == "import hf_semfocus.models"
    assert code[-1] == 'model = AutoModelForSequenceClassification.from_pretrained("owner/name")'


def test_what_is_not_given_is_said_so(model):
    parsed, text = card(model)
    assert "## Results\n\nNot given.\n" in text
    for line in ("Base model", "Datasets", "License", "Language", "Options of the training", "Metrics"):
        assert f"- {line}: not given\n" in text
    assert "\nCommand: not given\n" in text
    assert "intended use: not given" in text
    assert set(parsed.data.to_dict()) == {"library_name", "pipeline_tag", "tags"}


def test_results_dense_against_sparse(model):
    parsed, text = card(model, RESULTS)
    assert rows(text, "attention | dataset") == [
        ["`sdpa` (dense)", "even_pairs", "test", "accuracy", "0.5625", "0.088", "0.5 to 0.625", "0, 1"],
        [f"`{SPEC}`", "even_pairs", "test", "accuracy", "0.8125", "0.088", "0.75 to 0.875", "0, 1"],
    ]
    assert "Which seed the published weights come from is not given." in text
    assert "Dense results" not in text
    (entry,) = parsed.data.eval_results
    assert (entry.metric_value, entry.metric_name) == (0.8125, "accuracy (mean of 2 seeds)")
    assert (entry.task_type, entry.dataset_type, entry.dataset_split) == ("text-generation", "even_pairs", "test")
    assert entry.metric_args == {"attention": SPEC, "seeds": [0, 1]}
    parsed, text = card(model, RESULTS, seed=1)
    assert parsed.data.eval_results[0].metric_value == 0.875
    assert parsed.data.eval_results[0].metric_name == "accuracy"
    assert "The published weights are those of seed 1." in text


def test_results_with_holes(model):
    parsed, text = card(model, [result(values={0: 0.5, 1: None})], seed=1)
    cells = rows(text, "attention | dataset")[0]
    assert cells[4:] == ["0.5", "one value", "0.5 to 0.5", "0, 1 (no value)"]
    assert parsed.data.eval_results is None  # the published seed has none
    assert "Dense results to compare with are not given for every row." in text
    _, text = card(model, [result(values={0: None})])
    assert rows(text, "attention | dataset")[0][4:] == ["none", "none", "none", "0 (no value)"]


def test_results_from_runs(model):
    runs = [
        {"attention": attention, "seed": seed, "eval_accuracy": seed / 4, "eval_loss": None, "status": "finished"}
        for attention in ("full", SPEC)
        for seed in (0, 1)
    ]
    found = hub.from_runs(runs, "parity", "held-out", {"eval_accuracy": "accuracy", "eval_loss": "loss"})
    assert [(r.attention, r.metric, r.values) for r in found] == [
        ("full", "accuracy", {0: 0.0, 1: 0.25}),
        ("full", "loss", {0: None, 1: None}),
        (SPEC, "accuracy", {0: 0.0, 1: 0.25}),
        (SPEC, "loss", {0: None, 1: None}),
    ]
    assert len(card(model, found)[0].data.eval_results) == 1
    diverged = {"attention": SPEC, "seed": 0, "status": "diverged"}
    assert hub.from_runs([diverged], "d", "s")[0].values == {0: None}
    with pytest.raises(ValueError, match=r"a run has no eval_loss; it has attention, eval_accuracy"):
        hub.from_runs([{"attention": "full", "seed": 0, "eval_accuracy": 1}], "d", "s", {"eval_loss": "loss"})
    with pytest.raises(ValueError, match=r"seed 0 comes twice for 'full'"):
        hub.from_runs([runs[0], runs[0]], "d", "s")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attention": "topk_sprse"},
            r"attention='topk_sprse' is not known; expected one of full, eager, sdpa, .*topk",
        ),
        ({"attention": "topk_sparse:k=0"}, r"topk_sparse: k=0 is not allowed"),
        ({"values": {}}, r"values=\{\}; expected a value for every seed"),
        ({"values": [0.5]}, r"values=\[0.5\]; expected a value for every seed"),
        ({"values": {"a": 0.5}}, r"values has the key 'a'; expected seeds"),
        ({"values": {0: math.nan}}, r"values\[0\]=nan; expected a finite number, or None"),
        ({"values": {0: "0.5"}}, r"values\[0\]='0.5'; expected a finite number"),
        ({"metric": ""}, r"metric=''; expected a name"),
    ],
)
def test_wrong_results(changes, message):
    with pytest.raises(ValueError, match=message):
        result(**changes)


def test_results_must_fit_the_model(model):
    with pytest.raises(ValueError, match=r"the results are of topk_sparse:k=64, but the model uses topk_sparse:k=3"):
        card(model, [result("topk_sparse")])
    with pytest.raises(ValueError, match=r"seed=7 is not among the results' seeds; expected one of \[0, 1\]"):
        card(model, RESULTS, seed=7)
    with pytest.raises(ValueError, match=r"a result has the fields \['attention'\]; expected \['attention', 'metric'"):
        card(model, [{"attention": SPEC}])
    as_json = {"attention": SPEC, "metric": "accuracy", "values": {"0": 1}, "dataset": "d", "split": "test"}
    assert card(model, [as_json])[0].data.eval_results[0].metric_value == 1.0


def test_details(model):
    parsed, text = card(
        model,
        license="apache-2.0",
        language="en",
        datasets="stanfordnlp/imdb",
        base_model="openai-community/gpt2",
        tags=["mine"],
        command="accelerate launch recipes/pretrain.py \\\n  --task parity",
        limits="Do not use it.",
    )
    data = parsed.data.to_dict()
    assert data["base_model"] == "openai-community/gpt2"
    assert data["datasets"] == ["stanfordnlp/imdb"]
    assert data["tags"][-1] == "mine"
    assert "\nCommand:\n\n    accelerate launch recipes/pretrain.py \\\n      --task parity\n" in text
    assert "## Limits\n\nDo not use it.\n\n- Measured is" in text
    assert "- Datasets: stanfordnlp/imdb\n" in text
    with pytest.raises(ValueError, match=r"license=''; expected text, or None"):
        card(model, license="")
    with pytest.raises(ValueError, match=r"tags=\[3\]; expected names"):
        card(model, tags=[3])


def test_nothing_given_can_break_the_card(model):
    evil = 'a | b\n---\n{{ 7 * 7 }} <script>"'
    parsed, text = card(
        model, [result(dataset=evil, metric=evil, split=evil)], command=evil, limits=evil, tags=[evil], license=evil
    )
    cells = rows(text, "attention | dataset")[0]
    assert cells[1] == 'a \\| b --- {{ 7 * 7 }} &lt;script>"'
    assert parsed.data.eval_results[0].dataset_name == evil
    assert parsed.data.license == evil
    assert "49" not in re.sub(r"[\d,]+ parameters", "", text)
    with pytest.raises(ValueError, match=r"something given for the card holds <!-- hf_semfocus:begin"):
        card(model, command=BEGIN)
    assert f"&lt;{END[1:]}" in card(model, limits=f"text {END}")[1]


HOSTILE = [
    "<script>alert(1)</script>",
    '<img src="https://evil.example/x.png">',
    "![](https://evil.example/x.png)",
    "[click](https://evil.example)",
    "a\n# Heading\n- ## Heading",
    "a\r# Heading",
    "a\n\n<h1>Heading</h1>",
    "Heading\n===",
    "Heading\n---",
    "> # Heading\n> Heading\n> --",
    "```\nswallowed",
    "~~~\nswallowed",
    "a `code` \\` <b>",
    "a \\| b | <b>",
    "| a |\n| --- |\n| b |",
    "<!-- hidden",
    "\u2028# Heading",
    "javascript:alert(1)",
]


def structure(text):
    """Kinds of what a card shows but for text: headings, tables, images, links, HTML."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inner = [child for token in tokens for child in token.children or []]
    found = collections.Counter(
        token.type for token in tokens if token.type.startswith(("heading", "th", "td", "html"))
    )
    found += collections.Counter(child.type for child in inner if child.type in ("image", "link_open", "html_inline"))
    return found, [token.tag for token in tokens if token.type == "heading_open"]


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_fields_stay_text(model, evil):
    """The structure of the card is that of a card with harmless fields, and nothing in it is HTML or a picture."""

    def write(word, limits):
        given = {"dataset": word, "split": word, "metric": word}
        details = {"license": word, "language": [word], "base_model": word, "datasets": [word], "command": word}
        return card(model, [result(**given)], limits=limits, tags=[word], task="text-generation", **details)[1]

    harmless, levels = structure(write("word", "word"))
    found, found_levels = structure(write(evil, "word"))
    assert (found, found_levels) == (harmless, levels)
    found, found_levels = structure(write("word", f"Before.\n\n{evil}\n\nAfter."))
    for kind in ("heading_open", "image", "html_inline", "html_block", "td_open"):
        assert found[kind] == harmless[kind] + (1 if kind == "td_open" and evil.startswith("| a |") else 0), kind
    assert found_levels == levels


@pytest.mark.parametrize("name", ['owner/<img src="x">', "owner/a b", 'owner/x"); import os; ("', "owner/# x", "name"])
def test_names_of_no_repository_are_refused(model, name):
    with pytest.raises(ValueError, match=r"(?i)repo.?id"):
        hub.model_card(model, name)


def test_hostile_names_of_modules_and_classes_stay_code(model):
    layers = {"h.`<img src=x>` | b": SPEC}
    described = dataclasses.replace(describe(model), name="X` <img src=x> `Y", layers=layers)
    text = render(described, "owner/name", CardDetails()).partition("\n---\n")[2]
    assert structure(text) == structure(card(model)[1])


def test_links_and_lists_of_the_author_stay(model):
    limits = "See [the paper](https://arxiv.org/abs/2506.14095):\n\n- *not* for `a < b`\n- C# is fine"
    assert structure(card(model, limits=limits)[1])[0]["link_open"] == structure(card(model)[1])[0]["link_open"] + 1


def test_written_again_it_is_the_same(model):
    first = hub.model_card(model, "owner/name", RESULTS, license="mit")
    assert hub.model_card(model, "owner/name", RESULTS, license="mit", existing=first) == first
    assert hub.model_card(model, "owner/name", RESULTS, existing=first) == first
    crlf = first.replace("\n", "\r\n")
    assert hub.model_card(model, "owner/name", RESULTS, existing=crlf) == crlf
    marked = "\ufeff" + first
    assert hub.model_card(model, "owner/name", RESULTS, existing=marked) == first


def test_metadata_of_people_wins(model):
    existing = (
        "---\nlanguage: no\nlicense: other # see LICENSE\ntags: mine\npipeline_tag: text2text-generation\nwidget:\n"
        "- text: hi\nmodel-index:\n- name: My Model\n  results:\n  - task: {type: summarization}\n"
        "    dataset: {name: d, type: d}\n    metrics: [{type: rouge, value: 1.5}]\n---\n# By hand\n"
    )
    with pytest.warns(
        UserWarning, match=r"license: the card on the Hub says 'other', kept; 'mit' was given"
    ) as caught:
        text = hub.model_card(model, "owner/name", RESULTS, license="mit", existing=existing)
    assert len(caught) == 1
    data = ModelCard(text).data
    assert (data.language, data.license, data.pipeline_tag) == ("no", "other", "text2text-generation")
    assert data.tags == ["mine", "sparse-attention", "semantic-focus", "topk_sparse"]
    assert data.to_dict()["widget"] == [{"text": "hi"}]
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [("rouge", 1.5), ("accuracy", 0.8125)]
    assert data.model_name == "My Model"
    assert text.partition("\n---\n")[2].startswith(f"# By hand\n\n{BEGIN}")
    assert "- License: other\n- Language: no\n" in text
    # other weights: our results and mechanism go, theirs stay
    text = hub.model_card(tiny("gpt2", "banded_sparse"), "owner/name", existing=text)
    data = ModelCard(text).data
    assert [r.metric_type for r in data.eval_results] == ["rouge"]
    assert data.tags == ["mine", "sparse-attention", "semantic-focus", "banded_sparse"]


@pytest.mark.parametrize("text", [f"{BEGIN}\n", f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}{END}", f"{END}"])
def test_half_a_generated_part_is_refused(text, model):
    with pytest.raises(ValueError, match=r"the README.md on the Hub has \d .* expected one of each"):
        hub.model_card(model, "owner/name", existing=text)


@pytest.mark.parametrize("head", ["tags: [", "- a\n- b", "model-index: 3", "license: mit\nlicense"])
def test_unreadable_metadata_is_refused(head, model):
    with pytest.raises(ValueError, match=r"the metadata of the README.md on the Hub cannot be read .*; fix it there"):
        hub.model_card(model, "owner/name", existing=f"---\n{head}\n---\ntext")


@pytest.mark.parametrize("path", sorted(ROOT.glob("model_cards/*/README.md")), ids=lambda path: path.parent.name)
def test_rendered_cards_are_valid_and_say_nothing_of_the_machine(path):
    card = ModelCard.load(path)
    assert {"sparse-attention", "semantic-focus"} <= set(card.data.tags)
    assert card.data.library_name == "transformers"
    metrics = json.loads((path.parent / "metrics.json").read_text())
    for result in card.data.eval_results:
        seeds = result.metric_args["seeds"]
        runs = [run for run in metrics.values() if run["attention"] == result.metric_args["attention"]]
        assert result.metric_value in [
            value for run in runs if run["seed"] in seeds for value in run.values() if isinstance(value, float)
        ]
    for file in path.parent.glob("*.*"):
        if file.suffix not in (".png", ".safetensors"):
            assert not re.search(r"(?<![\w.:/])/(?:home|opt|root|tmp|usr|work)/", file.read_text())
    for _, picture in re.findall(r"!\[(.*?)\]\((.*?)\)", card.text):
        assert (path.parent / picture).is_file()
