"""``semfocus compare``: perplexities against others computed by hand, the verdict, files, and what is refused."""

import os
import re
import sys

import pytest
import torch
from conftest import tiny_config
from test_finetune_recipe import save_checkpoint, sentences
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BloomConfig

import hf_semfocus
from hf_semfocus.cli import compare
from hf_semfocus.cli.command import main as semfocus
from hf_semfocus.experiments.on_text import Comparison

TEXT = [" ".join(words) for words in sentences(9, 1)]
SPARSE = ["topk_sparse:k=1", "topk_sparse:k=8", "banded_sparse:window=3,edge=cut"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_checkpoint(root / "causal", "gpt2", causal=True)
    save_checkpoint(root / "weightless", "gpt2", causal=True)
    (root / "weightless" / "model.safetensors").unlink()
    bloom = BloomConfig(vocab_size=61, hidden_size=8, n_layer=1, n_head=2)
    save_checkpoint(root / "bloom", bloom, causal=True)
    save_checkpoint(root / "features", "bert")
    save_checkpoint(root / "masked", "bert")
    tokenizer = AutoTokenizer.from_pretrained(root / "masked", mask_token="<unk>")
    tokenizer.save_pretrained(root / "masked")
    config = tiny_config("bert", initializer_range=0.2)
    AutoModelForMaskedLM.from_config(config).save_pretrained(root / "masked")
    save_checkpoint(root / "encoder", "bert", causal=True)
    (root / "text.txt").write_text(" ".join(TEXT))
    (root / "short.txt").write_text("w1 w2 w3 w4 w5")
    (root / "empty.txt").write_text(" \n")
    (root / "binary.txt").write_bytes(b"\xff\xfe\x00")
    return root


def load(auto, folder):
    return auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_perplexities_are_those_computed_by_hand(folders):
    model, tokenizer = load(AutoModelForCausalLM, folders / "causal")
    text = " ".join(TEXT)
    found = hf_semfocus.compare_attentions(model, tokenizer, text, SPARSE, block_size=8, tokens=37)
    assert [point["attention"] for point in found.points] == ["sdpa", *SPARSE]
    assert [point["keys"] for point in found.points] == [None, 1, 8, 3]
    assert (found.block_size, found.tokens) == (8, 32)
    rows = torch.tensor(tokenizer(text)["input_ids"][:32]).view(4, 8)
    for point in found.points:
        model.set_attn_implementation(point["attention"])
        with torch.no_grad():
            losses = [model.eval()(input_ids=row[None], labels=row[None]).loss for row in rows]
        assert point["eval_perplexity"] == pytest.approx(torch.stack(losses).mean().exp().item(), rel=1e-5)
        assert point["seconds"] > 0
    assert [point["back_ends"] for point in found.points] == [["PyTorch"], *[["native"]] * 3]
    dense, one, all_keys, _ = (point["eval_perplexity"] for point in found.points)
    assert all_keys == pytest.approx(dense, rel=1e-5)
    assert one != pytest.approx(dense, rel=1e-3)


def test_rows_hold_one_text_each_and_the_model_is_as_before(folders):
    model, tokenizer = load(AutoModelForCausalLM, folders / "causal")
    model.train()
    hf_semfocus.configure(model, "topk_sparse:k=2", backend="gather")
    found = hf_semfocus.compare_attentions(model, tokenizer, TEXT, ["sdpa", "topk_sparse:k=3"], block_size=5)
    assert found.tokens == 5 * sum(len(text.split()) // 5 for text in TEXT)
    assert found.points[1]["back_ends"] == ["native"]
    assert model.config._attn_implementation == "topk_sparse:k=2"
    assert dict(model.config.semfocus) == {"k": 2, "backend": "gather"}
    assert model.training


def test_masked_models(folders):
    model, tokenizer = load(AutoModelForMaskedLM, folders / "masked")
    found = hf_semfocus.compare_attentions(model, tokenizer, " ".join(TEXT), SPARSE, block_size=8)
    dense, one, all_keys, band = (point["eval_perplexity"] for point in found.points)
    assert all_keys == pytest.approx(dense, rel=1e-5)
    assert dense != one != band


def test_command_prints_and_writes(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.chdir(tmp_path)
    arguments = ["--text", str(folders / "text.txt"), "--block_size", "8", "--cpu_threads", "1", "--attention"]
    semfocus(["compare", str(folders / "causal"), *arguments, "topk_sparse:k=8"])
    printed, progress = capsys.readouterr()
    assert "compare, 2 of 2, topk_sparse:k=8" in progress
    [line] = [line for line in printed.splitlines() if line.startswith("| topk_sparse:k=8 ")]
    assert [cell.strip() for cell in line.split("|")[2:5:2]] == ["8 of 8", "+0.0%"]
    assert "The fewest keys that stay within 10%" in printed
    folder = tmp_path / "outputs" / "compare-causal"
    assert {path.name for path in folder.iterdir()} == {"report.md", "swap.png"}
    assert printed.splitlines()[0] in (folder / "report.md").read_text()
    assert "![Perplexity" in (folder / "report.md").read_text()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = compare.main([str(folders / "causal"), *arguments, "topk_sparse:k=1"])
    assert [point["attention"] for point in found.points] == ["sdpa", "topk_sparse:k=1"]
    assert "no swap.png: plots need matplotlib" in capsys.readouterr().out


def points(**scores):
    return tuple(
        {
            "attention": name,
            "keys": None if name == "sdpa" else number,
            "eval_perplexity": score,
            "seconds": 1.0,
            "back_ends": [],
        }
        for number, (name, score) in enumerate(scores.items())
    )


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"one": 50.0, "two": 11.0, "three": 9.0}, "The fewest keys that stay within 10% of full attention's perpl"),
        ({"one": 50.0, "two": 11.0, "three": 9.0}, r"\(10.00\) are 2 of 64: `two` with 11.00 \(\+10.0%\)\. This is"),
        ({"one": 50.0, "two": 11.5}, r"No attention with few keys stays .* nearest is `two` with 11.50 \(\+15.0%\)"),
        ({"one": float("nan"), "two": float("inf")}, "Nothing can be said: the perplexity is 10 with full attention"),
    ],
)
def test_verdict(scores, expected):
    comparison = Comparison(points(sdpa=10.0, **scores), 64, 128)
    assert re.search(expected, comparison.verdict)
    assert comparison.verdict in str(comparison)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "model=None; expected a folder, or a name on the Hub"),
        ("nowhere", "model='nowhere'; expected a folder or a name on the Hub, with a model"),
        (
            "features",
            r"model='features' \(\['BertModel'\]\) is for features; expected a causal or a masked",
        ),
        ("bloom", "BloomForCausalLM computes attention in code of its own"),
        ("weightless", r"model='weightless': no weights can be read \(.*\); expected model.safetensors"),
        ("encoder", "sees the tokens after a position; expected a causal language model"),
        ("causal --attention topk", r"unknown mechanism 'topk' \(did you mean 'topk_sparse'\?\); expected one of"),
        (
            "causal --output_dir causal/config.json",
            "output_dir='causal/config.json' is a file",
        ),
        ("causal --attention topk_sparse:k=0", "k=0 is not allowed; expected an integer of at least 1"),
        ("causal --attention topk_sparse topk_sparse", "expected every attention once"),
        ("causal --attention sdpa", r"attention=\['sdpa'\]; expected at least one to compare with sdpa"),
        ("causal --text nothing.txt", "text='nothing.txt' cannot be read: .*; expected a text file in UTF-8"),
        ("causal --text binary.txt", "text='binary.txt' cannot be read: .*; expected a text file in UTF-8"),
        ("causal --text empty.txt", "text='empty.txt' is empty; expected a file with text"),
        ("causal --text short.txt", r"text='w1 w2 w3 w4 w5' has 5 tokens; expected at least 64, a row \(block_size\)"),
        ("causal --text short.txt --block_size 80", "block_size=80, but the model has 64 positions"),
        ("causal --text short.txt --tokens 9 --block_size 10", "tokens=9; expected at least block_size=10, a row"),
    ],
)
def test_what_is_refused_in_one_line(folders, monkeypatch, arguments, message):
    monkeypatch.chdir(folders)
    with pytest.raises(ValueError, match=message) as caught:
        compare.main([*arguments.split(), "--cpu_threads", "1"])
    assert "\n" not in str(caught.value)
    assert not os.path.exists("outputs")


def test_in_a_notebook_a_comparison_is_a_table_with_escaped_text():
    comparison = Comparison(points(sdpa=10.0, **{"<b>&": 11.0}), 64, 128)
    html = comparison._repr_html_()
    assert html.startswith("<table><caption>The fewest keys that stay within 10% of full attention&#x27;s")
    assert html.count("<tr>") == 3
    assert html.count("&lt;b&gt;&amp;") == 2
    assert "<b>" not in html
