"""``semfocus analyze``: a page, pictures, records and words of a checkpoint or a comparison; and what it refuses."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import tiny_config
from test_page import Page
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast, T5Config

from hf_semfocus.analysis import Record, attention_maps, capture, save_maps
from hf_semfocus.analysis.page.sections import PANELS
from hf_semfocus.cli import analyze, command, pretrain
from hf_semfocus.experiments.analyzed import find

WORDS = ["<unk>", "<script>alert(1)</script>", "<b>", "&amp;", *"abcdefgh"]
LINES = "a b c d e f g h a b\n\n<script>alert(1)</script> <b> a &amp; b c d e\na\n" + "h g f e d c b a\n" * 3
NAME = "<img src=x onerror=alert(1)>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def save_checkpoint(folder, family="gpt2", auto=AutoModelForCausalLM, attention=None):
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    auto.from_config(tiny_config(family), attn_implementation=attention).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a dense and a sparse checkpoint, an encoder, a text, and a comparison of two seeds."""
    folder = tmp_path_factory.mktemp("analyze")
    save_checkpoint(folder / NAME)
    save_checkpoint(folder / "sparse", attention="topk_sparse:k=3")
    save_checkpoint(folder / "encoder", "bert", AutoModel)
    (folder / "text.txt").write_text(LINES)
    (folder / "short.txt").write_text("a\n")
    (folder / "latin.txt").write_bytes(b"\xe9")
    (folder / "empty").mkdir()
    (folder / "damaged" / "runs").mkdir(parents=True)
    (folder / "damaged" / "config.yaml").write_text("a: b")
    save_checkpoint(folder / "t5")
    T5Config().save_pretrained(folder / "t5")
    tiny = "--train_size 40 --eval_size 20 --hidden_size 8 --intermediate_size 8 --num_layers 2 --epochs 1"
    attentions = "--batch_size 20 --attention sdpa topk_sparse:k=3 banded_sparse:window=3 --seeds 1 2 --cpu_threads 1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)  # no curves, which take longer than the training
        pretrain.main([*f"{tiny} {attentions} --output_dir".split(), str(folder / "compared")])
    return folder


def run(place, model, *args):
    """What was measured, and the folder with what was written."""
    out = place / f"out of {model}".replace("/", "_")
    return analyze.main([str(place / model), "--output_dir", str(out), *args]), out


@pytest.fixture(scope="module")
def checkpoint(place):
    export = place / "maps.npz"
    return run(place, NAME, "--text", str(place / "text.txt"), "--attention", "topk_sparse:k=2", "--landscape", "3",
               "--export_attentions", str(export))  # fmt: skip


@pytest.fixture(scope="module")
def compared(place):
    with pytest.MonkeyPatch.context() as patch:  # pictures take longer than all else, and are tested of a checkpoint
        patch.setattr(analyze, "write_pictures", lambda study, folder: None)
        return run(place, "compared", "--rows", "5", "--landscape", "2", "--sentences", "2")


def test_a_checkpoint_is_measured_with_both_attentions(place, checkpoint):
    study, out = checkpoint
    [pair] = study.pairs
    assert (pair.dense.attention, pair.sparse.attention) == ("sdpa", "topk_sparse:k=2")
    assert (pair.k, pair.keys, pair.rows, pair.source, pair.swapped) == (2, 10, 5, "lines of text.txt", True)
    model = AutoModelForCausalLM.from_pretrained(place / NAME, attn_implementation="topk_sparse:k=2").eval()
    tokens = PreTrainedTokenizerFast.from_pretrained(place / NAME)
    with torch.no_grad(), capture(model) as record:
        for line in filter(str.split, LINES.splitlines()):
            if len(line.split()) > 1:
                model(**tokens(line, return_tensors="pt"))
    assert pair.sparse.record.rows() == record.rows()
    [saved] = (file for file in (out / "records").iterdir() if "topk" in file.name)
    assert Record.load(saved).rows() == record.rows()


def test_its_page_stands_alone_whatever_tokens_and_names_are(checkpoint):
    _, out = checkpoint
    file = out / "page.html"
    assert 4_000_000 < file.stat().st_size < 10_000_000
    page = Page(file.read_text(encoding="utf-8"))
    assert {each for each in page.references if not each.startswith("#")} == set()
    assert [name for name in PANELS if name not in page.ids] == ["learning_curves", "time_to_target"]
    assert not {tag for tag, _ in page.tags} & {"img", "b", "iframe", "link"}
    assert NAME in "".join(page.text)
    tokens = page.scripts["attention_maps-data"]["pairs"][0]["sentences"][1]
    assert tokens == ["<script>alert(1)</script>", "<b>", "a", "&amp;", "b", "c", "d", "e"]
    assert {file.suffix for file in (out / "pictures").iterdir()} == {".png", ".svg"}
    assert len(json.loads((out / "conditions.json").read_text())) == 4 * (1 + 2)


def test_conditions_are_printed_with_words(checkpoint):
    printed = analyze.report(checkpoint[0])
    assert "| lambda_W | W holds | lambda_X | X holds | proven: softmax, all keys |" in printed
    assert "swapped without training" in printed
    assert "(lambda_W < 1) does not hold here" in printed


def test_sparse_checkpoint_is_set_beside_full_attention(place):
    [planned], comparison = find(str(place / "sparse"), "sparse", "topk_sparse:k=8")
    assert comparison is None
    assert planned.name == "sparse: sdpa and topk_sparse:k=3"
    assert planned.dense.load().config._attn_implementation == "sdpa"
    assert planned.sparse.load().config._attn_implementation == "topk_sparse:k=3"


def test_models_of_one_name_are_told_apart(place, tmp_path):
    twin = shutil.copytree(place / "sparse", tmp_path / "sparse")
    planned, _ = analyze._find(analyze.AnalyzeOptions(models=[str(place / "sparse"), str(twin)]))
    assert [each.name.partition(": ")[0] for each in planned] == [str(place / "sparse"), str(twin)]


def test_comparison_is_paired_by_seed(compared):
    study, out = compared
    names = [pair.name.removeprefix("compared, ") for pair in study.pairs]
    sparse = ("topk_sparse:k=3", "banded_sparse:window=3")
    assert names == [f"seed {seed}: sdpa and {each}" for seed in (1, 2) for each in sparse]
    assert len(study.sides) == 6
    assert not any(pair.swapped for pair in study.pairs)
    page = Page((out / "page.html").read_text(encoding="utf-8"))
    assert [name for name in page.ids if name in PANELS] == sorted(PANELS, key=lambda name: PANELS[name][0])
    assert "keeps other keys than those of the highest scores" in "".join(page.text)
    assert set(page.scripts["attention_maps-data"]["pairs"][0]["sentences"][0]) == {"0", "1"}
    curves = page.scripts["chart-learning_0_eval_loss"]["data"]
    assert [line["name"] for line in curves if "name" in line] == ["sdpa", *sparse]


def test_one_run_of_a_comparison_and_its_last_model(place):
    [folder] = (place / "compared" / "runs").glob("topk*_1")
    rows = ["--text", str(place / "text.txt")]
    with pytest.raises(ValueError, match=r"tokenizer='.*best': expected a folder or a model that has one"):
        analyze.main([str(folder), *rows])
    (folder / "best").rename(folder / "hidden")
    try:
        with pytest.raises(ValueError, match=r"checkpoint='best', which '.*' does not have; expected one of last"):
            analyze.main([str(folder), *rows])
    finally:
        (folder / "hidden").rename(folder / "best")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("", r"models=\[\]; expected a checkpoint, or the output folder of a comparison"),
        ("nowhere/at-all", r"model='nowhere/at-all'; expected a folder or a name on the Hub, with a model"),
        ("t5 --text text.txt", r"model='t5' is an encoder with a decoder; expected one of the two"),
        ("damaged", r"config.yaml names no attentions and seeds; expected the options of a comparison"),
        ("sparse sparse", r"models=\['sparse', 'sparse'\] names one twice; expected each once"),
        ("empty", r"'empty' holds no model; expected a checkpoint's folder or its name on the Hub, a run's folder"),
        (
            "sparse --attention topk",
            r"attention='topk' \(did you mean 'topk_sparse'\?\); expected one of asentmax_sparse",
        ),
        ("sparse --attention topk_sparse:k=0", r"k=0 is not allowed; expected an integer of at least 1"),
        ("sparse --rows 0", "rows=0; expected an integer of at least 1"),
        ("sparse --landscape 1", "landscape=1; expected an integer of at least 2"),
        ("sparse --export_attentions a.pt", r"export_attentions='a.pt'; expected a name that ends in .npz"),
        (
            "sparse --export_attentions no/a.npz",
            r"expected a file in a folder that exists",
        ),
        ("sparse --text nothing.txt", r"text='nothing.txt' cannot be read as a text; expected a file in UTF-8"),
        ("sparse --text latin.txt", r"text='latin.txt' cannot be read as a text; expected a file in UTF-8"),
        ("sparse --text short.txt", r"text='short.txt' has no line of 2 tokens or more; expected at least one"),
        ("compared --text text.txt", r"text='text.txt' has no effect on compared, seed 1.*the task 'even_pairs'"),
        ("encoder --text text.txt --landscape 3", r"landscape=3, but encoder.* has no loss on a text without labels"),
        ("sparse --text text.txt --output_dir text.txt", r"output_dir='text.txt' cannot be written to"),
        ("sparse --checkpoint first", "invalid choice: 'first'"),
        ("sparse --color red", "unknown option '--color'"),
    ],
)
def test_what_is_refused(place, monkeypatch, args, message):
    monkeypatch.chdir(place)
    with pytest.raises(ValueError, match=message):
        analyze.main(args.split())


def test_what_is_not_installed_is_told_in_one_line(place, monkeypatch, capsys):
    monkeypatch.setattr(analyze, "find_spec", lambda name: None if name == "plotly" else True)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit) as ended:
        command.main(["analyze", str(place / "sparse")])
    assert ended.value.code == 2
    expected = "semfocus analyze: error: analyze needs plotly; pip install 'hf_semfocus[analysis]'\n"
    assert capsys.readouterr().err == expected


# ---- attention maps


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_maps_are_what_the_model_would_give(family):
    auto = AutoModel if family == "bert" else AutoModelForCausalLM
    model = auto.from_config(tiny_config(family), attn_implementation="sdpa").eval()
    inputs = {"input_ids": torch.randint(3, 60, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    inputs["attention_mask"][1, 6:] = 0
    maps = attention_maps(model, **inputs)
    model.set_attn_implementation("eager")
    expected = model(**inputs, output_attentions=True).attentions
    assert len(maps) == len(expected) == 2
    real = inputs["attention_mask"].bool()
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours.transpose(1, 2)[real], theirs.transpose(1, 2)[real], atol=1e-6, rtol=1e-5)


def test_maps_of_a_sparse_model_have_exact_zeros(tmp_path):
    model = AutoModel.from_config(tiny_config("bert"), attn_implementation="topk_sparse:k=3").eval()
    maps = attention_maps(model, input_ids=torch.randint(3, 60, (1, 9)))
    for weights in maps:
        assert ((weights > 0).sum(-1) == 3).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 9))
    save_maps(tmp_path / "maps.npz", list("abcdefghi"), maps)
    held = np.load(tmp_path / "maps.npz")
    assert held["tokens"].tolist() == list("abcdefghi")
    assert all(np.array_equal(held[f"layer_{layer}"], weights.numpy()) for layer, weights in enumerate(maps))
    with pytest.raises(ValueError, match=r"'maps.pt' has no known format; expected a name that ends in .npz"):
        save_maps("maps.pt", [], maps)


def test_exported_maps_are_those_of_the_first_row(place, checkpoint):
    held = np.load(place / "maps.npz")
    assert held["tokens"].tolist() == list("abcdefghab")
    assert held["layer_1"].shape == (1, 4, 10, 10)


# ---- in a browser


CHOOSE = """<script>
for (const [name, value] of [["layer", 1], ["query", 2]]) {
  document.getElementById(`map-${name}`).value = value;
  document.getElementById(`map-${name}`).dispatchEvent(new Event("change"));
}
</script></body>"""


def choosing(file, folder):
    """The page with a reader who chooses another layer and query by the keyboard."""
    made = folder / "choosing.html"
    made.write_text(file.read_text(encoding="utf-8").replace("</body>", CHOOSE), encoding="utf-8")
    return made


def listed(study):
    """The keys of query 2 in head 0 of layer 1 that the table should list."""
    pair, columns = study.pairs[0], []
    for side in (pair.dense, pair.sparse):
        weights = np.rint(side.maps[0][1][0][2] * 65535) / 65535
        keys = [key for key in np.argsort(-weights, kind="stable") if weights[key] > 0]
        columns.append([(f"{key}: {pair.sentences[0][key]}", f"{weights[key]:.4f}") for key in keys])
    lines = min(12, max(map(len, columns)))
    columns = [[*column, *[("", "")] * lines][:lines] for column in columns]
    return [[str(rank), *dense, *sparse] for rank, (dense, sparse) in enumerate(zip(*columns, strict=True), 1)]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_page_in_a_browser(checkpoint, compared, tmp_path):
    for study, out in (checkpoint, compared):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,3000"]
        options += ["--virtual-time-budget=30000", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'user'}"]
        file, picture = out / "page.html", tmp_path / "page.png"

        def chromium(*more, options=options, file=file):
            run = [CHROMIUM, *options, *more, file.as_uri()]
            done = subprocess.run(run, capture_output=True, text=True, timeout=300)
            assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
            return done.stdout

        page = Page(chromium("--dump-dom"))
        chosen = chromium("--dump-dom", file=choosing(file, tmp_path))
        assert Page(chosen).table("map-table") == listed(study)
        drawn = [each for _, each in page.tags if each.get("class") == "main-svg"]
        charts = sum(name.startswith("chart-") for name in page.scripts)
        assert len(drawn) >= charts + 2
        options_of = [tag for tag, _ in page.tags].count("option")
        tokens = page.scripts["attention_maps-data"]["pairs"][0]["sentences"][0]
        assert options_of >= len(study.pairs) + 2 + 1 + 1 + len(tokens)
        assert not {tag for tag, _ in page.tags} & {"img", "b"}
        chromium(f"--screenshot={picture}")
        from matplotlib.image import imread

        pixels = imread(picture)[..., :3]
        assert pixels.shape[:2] == (3000, 1280)
        assert len(np.unique(np.round(pixels.reshape(-1, 3) * 15), axis=0)) > 40  # colors of charts, not only text
