"""The pretraining recipe on text and on associative recall: from documents to a report and models that come back."""

import json
import math
import re
import subprocess

import pytest
import torch
import yaml
from conftest import PATIENCE
from recipe import assert_close
from test_pretrain_recipe import TWO_PROCESSES, command, pretrain, timeless
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import hf_semfocus
from hf_semfocus.data import load_text
from hf_semfocus.training.log import read

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "while",
    "seven",
    "wizards",
    "watch",
    "from",
    "a",
    "misty",
    "hill",
]
ROWS = ["--block_size", "24", "--batch_size", "4", "--eval_batch_size", "3"]
ROWS += ["--cpu_threads", "1", "--epochs", "1", "--seeds", "3"]
TINY = [*ROWS, "--hidden_size", "16", "--intermediate_size", "24", "--num_layers", "1", "--num_heads", "2"]
TINY += ["--vocab_size", "280"]
TWO = ["--attention", "sdpa", "topk_sparse:k=3"]


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A folder with text: 40 documents of 3 to 60 words, and 7 held-out ones."""
    folder = tmp_path_factory.mktemp("documents")
    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", 40), ("validation", 7)):
        lines = []
        for _ in range(count):
            length = int(torch.randint(3, 60, (), generator=generator))
            picks = torch.randint(len(WORDS), (length,), generator=generator)
            lines.append(json.dumps({"text": " ".join(WORDS[i] for i in picks.tolist())}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def run(tmp_path, documents, *args):
    return pretrain.main([*TINY, "--dataset", str(documents), "--output_dir", str(tmp_path), *args])


def pieces(documents, tokenizer, block=24):
    """Token ids of every held-out document as the rows cut it, computed from the text alone."""
    stream = []
    for text in load_text(str(documents), "validation")["text"]:
        ids = tokenizer(text)["input_ids"]
        stream += [(token, position == 0) for position, token in enumerate([*ids, tokenizer.eos_token_id])]
    for first in range(0, len(stream), block):
        piece = []
        for place, (token, starts) in enumerate(stream[first : first + block]):
            if starts and place:
                yield piece
                piece = []
            piece.append(token)
        yield piece


@pytest.mark.parametrize("model", [pytest.param("gpt2", marks=pytest.mark.slow), "llama"])
def test_causal_model_comes_back_with_the_perplexity_that_was_reported(tmp_path, documents, model, capsys):
    results = run(tmp_path, documents, "--task", "clm", "--model", model, *TWO, "--eval_steps", "2")
    printed = capsys.readouterr().out
    assert "held-out ppl" in printed
    assert "tokens/s" in printed
    for result, attention in zip(results, TWO[1:], strict=True):
        [folder] = tmp_path.glob(f"runs/{re.sub(':', '_', attention)}*/last")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert loaded.config._attn_implementation == attention
        nll, count = 0.0, 0
        with torch.no_grad():
            for piece in pieces(documents, tokenizer):
                if len(piece) > 1:
                    logits = loaded(torch.tensor([piece])).logits[0, :-1].double()
                    nll -= logits.log_softmax(-1)[torch.arange(len(piece) - 1), piece[1:]].sum().item()
                    count += len(piece) - 1
        assert result["eval_perplexity"] == pytest.approx(math.exp(nll / count), rel=1e-4)
    kinds = [(record["kind"], record["step"]) for record in read(tmp_path / "metrics.jsonl")]
    assert ("eval", 2) in kinds
    assert (tmp_path / "curves.png").exists()


def test_masked_model_comes_back_and_its_mask_token_with_it(tmp_path, documents):
    results = run(tmp_path, documents, "--task", "mlm", *TWO)
    for result, folder in zip(results, sorted(tmp_path.glob("runs/*/last")), strict=True):
        model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert model.config._attn_implementation == result["attention"]
        inputs = tokenizer(f"the quick {tokenizer.mask_token} fox", return_tensors="pt")
        assert tokenizer.mask_token_id in inputs["input_ids"]
        assert model(**inputs).logits.shape[-1] == len(tokenizer)
        assert 1 < result["eval_perplexity"] < 280


def test_pretraining_goes_on_from_a_checkpoint_with_its_tokenizer(tmp_path, documents):
    run(tmp_path / "first", documents, "--task", "clm", "--attention", "sdpa")
    [last] = (tmp_path / "first").glob("runs/*/last")
    args = ["--task", "clm", "--model", str(last), "--attention", "topk_sparse:k=999", "--learning_rate", "0"]
    args += [*ROWS, "--dataset", str(documents), "--output_dir", str(tmp_path / "second")]
    [result] = pretrain.main(args)
    [before] = read(tmp_path / "first" / "metrics.jsonl")
    assert result["eval_loss"] == pytest.approx(before["eval_loss"], rel=1e-5)  # so many keys are all there are
    names = {path.name for path in next((tmp_path / "second").glob("runs/*/last")).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names


def test_stream_gives_as_many_rows_as_asked_for(tmp_path, documents):
    args = ["--task", "clm", "--streaming", "--train_size", "6", "--eval_size", "4", "--tokenizer_documents", "30"]
    [result] = run(tmp_path, documents, *args, "--attention", "sdpa")
    assert result["step"] == 2
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["streaming"], config["attention"]) == (True, ["sdpa"])


@pytest.mark.slow
def test_two_processes_equal_one_on_text(tmp_path, documents):
    args = [*TINY, "--task", "clm", "--dataset", str(documents), *TWO, "--logging_steps", "1"]
    args += ["--gradient_accumulation_steps", "2"]
    pretrain.main([*args, "--output_dir", str(tmp_path / "one")])
    two = command(*args, "--output_dir", tmp_path / "two", launch=TWO_PROCESSES)
    done = subprocess.run(**two, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "Ran on 2 x cpu" in (tmp_path / "two" / "report.md").read_text()
    assert_close(timeless(tmp_path / "two"), timeless(tmp_path / "one"))
    trained = [next((tmp_path / n).glob("runs/*/last/tokenizer.json")).read_text() for n in ("one", "two")]
    assert trained[0] == trained[1]


def test_schedules_have_folders_of_their_own_and_publish_what_they_ended_with(tmp_path, documents):
    names = ["sdpa@2>topk_sparse:k=3", "sdpa@2%>topk_sparse:k=2", "topk_sparse:k=4@90%>topk_sparse:k=1"]
    results = run(tmp_path / "all", documents, "--task", "clm", "--attention", *names)
    assert len(list((tmp_path / "all").glob("runs/*/last"))) == 3
    assert [result["last_attention"] for result in results] == [f"topk_sparse:k={k}" for k in (3, 2, 1)]
    args = ["--task", "clm", "--attention", names[2], "--push_to_hub", "--hub_model_id", "a/b", "--dry_run"]
    args += ["--target_loss", "99", "--eval_steps", "1"]  # reached at once
    with pytest.raises(ValueError, match="ended with 'topk_sparse:k=4', before the schedule's last attention"):
        run(tmp_path / "early", documents, *args)


@pytest.mark.parametrize("attention", ["sdpa", "topk_sparse:k=2"])
def test_associative_recall_is_a_task_of_the_recipe(tmp_path, attention):
    args = ["--task", "mqar", "--train_size", "30", "--eval_size", "10", "--epochs", "1", "--cpu_threads", "1"]
    args += ["--hidden_size", "16", "--attention", attention, "--seeds", "3"]
    [result] = pretrain.main([*args, "--output_dir", str(tmp_path)])
    assert (result["attention"], result["step"]) == (attention, 1)
    assert result["eval_loss"] == pytest.approx(math.log(130), abs=0.5)


def test_a_dry_run_writes_what_would_be_pushed(tmp_path, documents, capsys):
    args = ["--task", "clm", "--push_to_hub", "--hub_model_id", "someone/tiny", "--dry_run"]
    results = run(tmp_path, documents, *args, *TWO, "--hub_license", "apache-2.0")
    folder = tmp_path / "hub"
    assert f"what would be pushed to someone/tiny is in {folder}" in capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "training_args.json"} <= names
    assert {"metrics.json", "curves.png"} <= names
    card = (folder / "README.md").read_text()
    for result in results:
        assert f"{result['eval_perplexity']:.4g}" in card
    model = AutoModelForCausalLM.from_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(next(tmp_path.glob("runs/topk*/last")))
    ids = torch.arange(9).unsqueeze(0)
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert hf_semfocus.verify(model) == {"model.layers.0.self_attn": "topk_sparse:k=3"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "bert"], "model='bert' cannot be a causal_lm; expected gpt2, llama or a checkpoint"),
        (["--model", "paper"], "model='paper' cannot be a causal_lm"),
        (["--dataset", "no/such/folder/here"], "no such file or folder"),
        (["--text_column", "words"], "has no column 'words'; expected text_column to be one of"),
        (["--vocab_size", "100"], "vocab_size=100; expected at least 260"),
        (["--block_size", "2"], "block_size=2; expected an integer of at least 4"),
        (["--streaming"], "streaming=True needs train_size"),
        (["--streaming", "--train_size", "5"], "needs a tokenizer, or tokenizer_documents to train one on"),
        (["--attention", "sdpa>topk_sparse"], "'sdpa' does not say when it ends"),
        (["--attention", "sdpa@9>topk_sparse@x"], "ends the schedule"),
        (["--attention", "sdpa@90%>topk_sparse@2>sdpa"], r"its phases end at steps \[\d+, 2\]"),
        (["--warmup_steps", "5000"], "warmup_steps=5000 are more than the"),
        (["--mixed_precision", "fp16"], "mixed_precision='fp16' needs a GPU"),
        (["--push_to_hub"], "push_to_hub=True needs hub_model_id"),
        (["--dry_run"], "expected push_to_hub with it"),
        (["--pad_as_tokens"], "pad_as_tokens=True has no effect on task='clm'"),
        (["--tokenizer", "some/where"], "vocab_size=280 has no effect on a tokenizer that is trained already"),
        (["--push_to_hub", "--hub_model_id", "a b"], "a b"),
        (
            ["--push_to_hub", "--hub_model_id", "a/b", "--dry_run", "--attention", "sdpa"],
            r"hub_attention=None; expected a sparse attention of this comparison, one of \[\]",
        ),
        (
            ["--push_to_hub", "--hub_model_id", "a/b", "--attention", "topk_sparse:k=3", "sdpa@2>topk_sparse:k=3"],
            "end with the same attention",
        ),
    ],
)
def test_mistakes_end_it_before_anything_is_written(tmp_path, documents, args, message):
    folder = tmp_path / "output"
    if "fp16" in args and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=message):
        run(folder, documents, "--task", "clm", *args)
    assert not folder.exists()
