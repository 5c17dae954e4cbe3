"""The zero-shot swap: which points there are, what they say, and that an interrupted swap goes on."""

import json

import pytest
import torch
from test_finetune_recipe import finetune, make, sentences  # noqa: F401  (fixtures)
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from hf_semfocus.experiments import SwapOptions, swap
from hf_semfocus.training.log import read

pytestmark = pytest.mark.usefixtures("own_datasets_cache")

ROWS = [f"topk_sparse:k={k}" for k in (1, 3, 16)]
SWAP = ["--swap", "topk_sparse", "--swap_k", "1", "3", "16"]


def scores(points):
    return {point["attention"]: point["eval_loss"] for point in points}


def loss_of(model, attention, tokenizer, held_out):
    """Mean loss of a classifier, one example at a time."""
    model.set_attn_implementation(attention)
    losses = []
    for words in held_out:
        ids = tokenizer(" ".join(words), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model.eval()(input_ids=ids).logits[0].double()
        losses.append(-logits.log_softmax(-1)[int(words[0][1:]) % 3].item())
    return sum(losses) / len(losses)


# ---- names


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["sdpa"]),
        ({"swap": ["topk_sparse:k=5"]}, ["sdpa", "topk_sparse:k=5"]),
        ({"swap": ["topk_sparse"]}, ["sdpa", "topk_sparse"]),
        (
            {"swap": ["topk_sparse", "banded_sparse", "banded_sparse:window=7"], "swap_k": [4, 8]},
            [
                "sdpa",
                "topk_sparse:k=4",
                "topk_sparse:k=8",
                "banded_sparse:window=4",
                "banded_sparse:window=8",
                "banded_sparse:window=7",
            ],
        ),
        ({"swap": ["block_local_sparse"], "swap_k": [4]}, ["sdpa", "block_local_sparse:block_size=4"]),
    ],
)
def test_names(options, names):
    assert SwapOptions(**options).names == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"swap_k": [4]}, r"swap_k=\[4\] is for a swap; expected attentions as swap with it"),
        ({"swap_only": True}, "swap_only=True is for a swap"),
        ({"swap": ["topk"]}, r"unknown mechanism 'topk' \(did you mean 'topk_sparse'\?\); expected one of"),
        ({"swap": ["sdpa"]}, "unknown mechanism 'sdpa'"),
        ({"swap": ["topk_sparse:m=1"]}, "topk_sparse has no parameter 'm'"),
        ({"swap": ["topk_sparse"], "swap_k": [0]}, "swap_k=0; expected an integer of at least 1"),
        ({"swap": ["topk_sparse:k=1"], "swap_k": [2]}, "applies to none of swap="),
        ({"swap": ["topk_sparse"], "swap_k": [2, 2]}, "expected every attention once"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        SwapOptions(**options)
    assert "\n" not in str(caught.value)


def test_keys():
    names = ("sdpa", "topk_sparse:k=5", "topk_sparse", "banded_sparse:window=7", "block_local_sparse:block_size=3")
    assert [swap.keys_of(name, 100) for name in names] == [None, 5, 64, 7, 3]
    # a window of 7 holds one other multiple of 3 on either side, of 33 in all
    assert swap.keys_of("strided_sparse:window=7,stride=3", 100) == 7 + 34 - 3
    assert swap.keys_of("banded_sparse:window=7,num_global_tokens=2", 100) == 9
    assert swap.keys_of("topk_sparse", 11) == 11


# ---- points


@pytest.mark.parametrize("peft", [[], ["--peft", "lora"]], ids=["full", "lora"])
def test_points_of_a_classifier_are_those_of_its_dense_model(tmp_path, make, peft):  # noqa: F811
    args = [*make("sequence", "bert"), *peft, *SWAP, "--learning_rate", "0.01", "--max_steps", "8"]
    args += ["--attention", "topk_sparse:k=3", "sdpa", "--seeds", "3", "4", "--output_dir", str(tmp_path)]
    results = finetune.main(args)
    points = read(tmp_path / "swap.jsonl")
    assert [(p["run"], p["attention"]) for p in points] == [
        (f"sdpa/{seed}", name) for seed in (3, 4) for name in ("sdpa", *ROWS)
    ]
    dense = {r["seed"]: r for r in results if r["attention"] == "sdpa"}
    for seed in (3, 4):
        mine = scores(p for p in points if p["seed"] == seed)
        assert mine["sdpa"] == pytest.approx(dense[seed]["eval_loss"], rel=1e-6)
        assert mine["topk_sparse:k=16"] == pytest.approx(mine["sdpa"], rel=1e-5)  # no text is longer
        assert mine["topk_sparse:k=1"] != pytest.approx(mine["sdpa"], rel=1e-3)
        if not peft:
            folder = tmp_path / "runs" / f"sdpa_{seed}" / "last"
            model = AutoModelForSequenceClassification.from_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            for name in ("sdpa", *ROWS):
                assert mine[name] == pytest.approx(loss_of(model, name, tokenizer, sentences(23, 1)), rel=1e-5)
    text = (tmp_path / "report.md").read_text()
    assert "The models fine-tuned with sdpa, as they are, evaluated on the held-out data" in text
    [cells] = [line for line in text.splitlines() if line.startswith("| topk_sparse:k=1 ")]
    assert cells.split("|")[-2].strip() == "-"
    lines = [line for line in text.splitlines() if line.startswith("| topk_sparse:k=3 ")]
    tuned = sorted(r["eval_accuracy"] for r in results if r["attention"] == "topk_sparse:k=3")
    assert len(lines) == 2  # of the training, and of the swap
    assert f"{sum(tuned) / 2:.4f} [" in lines[1].split("|")[-2]
    assert (tmp_path / "swap.png").stat().st_size > 10_000


@pytest.fixture
def checkpoint_args(make, tmp_path):  # noqa: F811
    return [*make("clm", "llama"), *SWAP, "--swap_only", "--output_dir", str(tmp_path / "out")]


def test_points_of_a_language_model_need_no_training(make, checkpoint_args, tmp_path):  # noqa: F811
    points = finetune.main(checkpoint_args)
    folder = tmp_path / "out"
    assert points == read(folder / "swap.jsonl")
    assert [(p["run"], p["attention"]) for p in points] == [("checkpoint", name) for name in ("sdpa", *ROWS)]
    files = {path.name for path in folder.iterdir()} - {".lock"}
    assert files == {"config.yaml", "report.md", "swap.jsonl", "swap.png"}

    model = AutoModelForCausalLM.from_pretrained(checkpoint_args[checkpoint_args.index("--model") + 1]).eval()
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    stream = [(n, i) for n, words in enumerate(sentences(23, 1)) for i in [*tokenizer(" ".join(words)).input_ids, 2]]
    rows = [stream[first : first + 8] for first in range(0, len(stream), 8)]
    pieces = [torch.tensor([[i for n, i in row if n == d]]) for row in rows for d in dict.fromkeys(n for n, _ in row)]
    for point in points:
        model.set_attn_implementation(point["attention"])
        with torch.no_grad():
            logs = [model(input_ids=ids).logits[0, :-1].double().log_softmax(-1) for ids in pieces]
        nll = -sum(log.gather(1, ids[0, 1:, None]).sum().item() for log, ids in zip(logs, pieces, strict=True))
        tokens = sum(ids.shape[1] - 1 for ids in pieces)
        assert point["eval_nll"] == pytest.approx(nll / tokens, rel=1e-5)
    text = (folder / "report.md").read_text()
    assert "The checkpoint as it is, without training" in text
    assert "fine-tuned with it" not in text
    assert "swap_only: True" in text


def test_language_models_beside_fine_tuned_ones(make, tmp_path):  # noqa: F811
    args = [*make("clm", "gpt2"), *SWAP, "--peft", "lora", "--learning_rate", "0.01", "--max_steps", "3"]
    results = finetune.main([*args, "--attention", "topk_sparse:k=3", "--output_dir", str(tmp_path)])
    points = read(tmp_path / "swap.jsonl")
    assert [p["attention"] for p in points] == ["sdpa", *ROWS]
    before = next(p for p in points if p["attention"] == "topk_sparse:k=3")
    assert before["eval_loss"] != results[0]["eval_loss"]
    text = (tmp_path / "report.md").read_text()
    assert f"{results[0]['eval_perplexity']:.4f}" in text
    assert '"fine-tuned with it" is the held-out perplexity' in text


def test_resuming_computes_only_what_is_missing(checkpoint_args, tmp_path, monkeypatch):
    whole = finetune.main(checkpoint_args)
    path = tmp_path / "out" / "swap.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:30])
    seen = []
    evaluate = swap.evaluate
    monkeypatch.setattr(swap, "evaluate", lambda *args: seen.append(1) or evaluate(*args))
    assert finetune.main([*checkpoint_args, "--resume"]) == whole
    assert len(seen) == 2
    assert path.read_text() == "".join(lines)
    more = finetune.main([*checkpoint_args, "--swap_k", "1", "2", "3", "16", "--resume"])
    assert len(seen) == 3
    assert [json.dumps(point) for point in more] == [line.strip() for line in path.read_text().splitlines()]
    assert sorted(scores(more)) == sorted(["sdpa", "topk_sparse:k=2", *ROWS])
    with pytest.raises(ValueError, match="is not empty; add --resume"):
        finetune.main(checkpoint_args)
    with pytest.raises(ValueError, match=r"cannot resume .*block_size: 8 -> 4"):
        finetune.main([*checkpoint_args, "--block_size", "4", "--resume"])
    assert len(finetune.main([*checkpoint_args, "--overwrite_output_dir"])) == 4
    assert len(seen) == 3 + 4


def test_a_sparse_checkpoint_is_swapped_to_what_the_name_says(make, checkpoint_args, tmp_path):  # noqa: F811
    model = AutoModelForCausalLM.from_pretrained(checkpoint_args[checkpoint_args.index("--model") + 1])
    dense = finetune.main(checkpoint_args)
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    model.config.semfocus = {"window": 2}
    model.set_attn_implementation("banded_sparse")
    model.save_pretrained(tmp_path / "sparse")
    tokenizer.save_pretrained(tmp_path / "sparse")
    args = [*checkpoint_args, "--model", str(tmp_path / "sparse"), "--output_dir", str(tmp_path / "second")]
    assert scores(finetune.main(args)) == scores(dense)


@pytest.mark.parametrize("extra", [["--attention", "sdpa"], ["--push_to_hub", "--hub_model_id", "a/b", "--dry_run"]])
def test_nothing_to_train_or_to_publish(checkpoint_args, extra):
    with pytest.raises(ValueError, match="has no effect with swap_only=True, which trains nothing"):
        finetune.main([*checkpoint_args, *extra])


def test_without_matplotlib_a_word_says_so(checkpoint_args, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    finetune.main(checkpoint_args)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "no swap.png: plots need matplotlib" in text
    assert "![" not in text
