"""The fine-tuning recipe end to end: every task on three families, scores against others computed by hand, misuse."""

import csv
import json
import math
import re
import runpy
import signal
import sys
from pathlib import Path

import datasets
import pytest
import recipe
import torch
import yaml
from conftest import tiny_config
from faults import Life, Strike, kill
from peft import PeftModel
from recipe import CLOCKED, timeless
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
)

from hf_semfocus.experiments import title
from hf_semfocus.hub import load_adapter
from hf_semfocus.training import start
from hf_semfocus.training.log import read

finetune = recipe.load("finetune")
SPECIAL = {"pad_token": "<pad>", "cls_token": "<cls>", "eos_token": "<eos>", "unk_token": "<unk>"}
WORDS = [*SPECIAL.values(), *(f"w{i}" for i in range(57))]
LABELS = ["bad", "fine", "good"]
AUTO = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "clm": AutoModelForCausalLM,
}
TINY = ["--batch_size", "5", "--eval_batch_size", "7", "--cpu_threads", "1", "--seeds", "3"]
TWO = ["--attention", "sdpa", "topk_sparse:k=3"]
LORA = ["--peft", "lora", "--lora_r", "2", "--learning_rate", "0.05"]


pytestmark = pytest.mark.usefixtures("own_datasets_cache")


def a_tokenizer(family, words=WORDS):
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if family == "bert":
        made.post_processor = processors.TemplateProcessing(single="<cls> $A", special_tokens=[("<cls>", 1)])
    special = SPECIAL if family != "gpt2" else {k: v for k, v in SPECIAL.items() if k != "pad_token"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def save_checkpoint(folder, family, causal=False, **changes):
    torch.manual_seed(1)
    changes = {"initializer_range": 0.2, **changes}  # so that attention matters
    config = tiny_config(family, **changes) if isinstance(family, str) else family
    (AutoModelForCausalLM if causal else AutoModel).from_config(config).save_pretrained(folder)
    a_tokenizer(family).save_pretrained(folder)
    return str(folder)


def sentences(count, seed=0, longest=12):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest + 1, (count,), generator=random).tolist()
    return [[f"w{n}" for n in torch.randint(0, 50, (length,), generator=random).tolist()] for length in lengths]


def write_data(folder, task):
    """43 training and 23 held-out examples; what the label is depends on the words."""
    folder.mkdir(exist_ok=True)
    for split, count, seed in (("train", 43, 0), ("validation", 23, 1)):
        lines = sentences(count, seed)
        if task == "sequence":
            with (folder / f"{split}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerows([["text", "label"], *([" ".join(w), LABELS[int(w[0][1:]) % 3]] for w in lines)])
        elif task == "token":
            rows = [{"tokens": w, "ner_tags": [LABELS[int(word[1:]) % 3] for word in w]} for w in lines]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            (folder / f"{split}.jsonl").write_text("".join(json.dumps({"text": " ".join(w)}) + "\n" for w in lines))
    return str(folder)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """From a task and a family to the options that name its data and its checkpoint, each made once."""
    root, made = tmp_path_factory.mktemp("made"), set()

    def arguments(task, family):
        data, model = root / task, root / f"{family}-{task == 'clm'}"
        if data not in made:
            write_data(data, task)
        if model not in made:
            save_checkpoint(model, family, causal=task == "clm")
        made.update((data, model))
        extra = ["--block_size", "8"] if task == "clm" else []
        return [*TINY, "--task", task, "--model", str(model), "--dataset", str(data), *extra]

    return arguments


def command(*args, launch=()):
    made = recipe.command(*args, launch=launch, recipe="finetune")
    return {**made, "env": {**made["env"], "HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE)}}


def by_hand(task, model, tokenizer):
    """Held-out scores, one example at a time, without any code of this library around the model."""
    nll, predictions, references = 0.0, [], []
    for words in sentences(23, 1):
        ids = tokenizer(" ".join(words), return_tensors="pt")["input_ids"]
        labels = [int(word[1:]) % 3 for word in (words[:1] if task == "sequence" else words)]
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        logits = logits if task == "sequence" else logits[0, -len(words) :]
        nll -= float(logits.double().log_softmax(-1)[torch.arange(len(labels)), labels].sum())
        predictions += logits.argmax(-1).tolist()
        references += labels
    pairs = list(zip(predictions, references, strict=True))
    f1 = []
    for label in sorted({*predictions, *references}):
        hits = sum(p == r == label for p, r in pairs)
        f1.append(2 * hits / (predictions.count(label) + references.count(label)))
    accuracy = sum(p == r for p, r in pairs) / len(pairs)
    return {"eval_loss": nll / len(pairs), "eval_accuracy": accuracy, "eval_macro_f1": sum(f1) / len(f1)}


def by_hand_clm(model, tokenizer, block=8):
    """The same of a language model: pieces of documents, each on its own."""
    stream = [(n, i) for n, words in enumerate(sentences(23, 1)) for i in [*tokenizer(" ".join(words)).input_ids, 2]]
    nll, tokens = 0.0, 0
    for first in range(0, len(stream), block):
        row = stream[first : first + block]
        for document in dict.fromkeys(n for n, _ in row):
            piece = torch.tensor([[i for n, i in row if n == document]])
            with torch.no_grad():
                logits = model(input_ids=piece).logits[0, :-1].double().log_softmax(-1)
            nll -= float(logits.gather(1, piece[0, 1:, None]).sum())
            tokens += piece.shape[1] - 1
    return {"eval_loss": nll / tokens, "eval_perplexity": math.exp(nll / tokens)}


def come_back(task, folder, attention, lora):
    """What lies in a run's folder, loaded as whoever has it would."""
    if not lora:
        model = AUTO[task].from_pretrained(folder)
    else:
        checkpoint = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        labels = {} if task == "clm" else {"num_labels": 3, "pad_token_id": pad_of(checkpoint)}
        base = AUTO[task].from_pretrained(checkpoint, **labels)
        model = PeftModel.from_pretrained(base, folder) if attention == "sdpa" else load_adapter(folder, base)
    return model.eval()


def model_of(args):
    return args[args.index("--model") + 1]


def pad_of(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


CASES = [(task, family) for task in ("sequence", "token") for family in ("bert", "gpt2", "llama")]
CASES += [("clm", "gpt2"), ("clm", "llama")]
OFTEN = (("sequence", "bert"), ("token", "gpt2"), ("clm", "llama"))
ADAPTED = [pytest.param(*case, LORA, marks=() if case in OFTEN else pytest.mark.slow) for case in CASES]


@pytest.mark.usefixtures("without_curves")
@pytest.mark.parametrize(("task", "family", "peft"), [*((*case, []) for case in CASES), *ADAPTED])
def test_every_task_on_every_family(tmp_path, make, task, family, peft):
    results = finetune.main([*make(task, family), *TWO, *peft, "--max_steps", "4", "--output_dir", str(tmp_path)])
    assert [(r["attention"], r["status"]) for r in results] == [(name, "finished") for name in TWO[1:]]
    for result in results:
        folder = tmp_path / "runs" / f"{result['attention']}_3".replace(":", "_") / "last"
        model = come_back(task, folder, result["attention"], peft)
        assert model.config._attn_implementation == result["attention"]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if task == "clm":
            expected = by_hand_clm(model, tokenizer)
        else:
            expected = by_hand(task, model, tokenizer)
            if not peft:
                assert model.config.id2label == dict(enumerate(LABELS))
                assert model.config.label2id == {name: number for number, name in enumerate(LABELS)}
        assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        if task != "clm":
            assert -1 <= result["eval_matthews_correlation"] <= 1
        weights = "adapter_model.safetensors" if peft else "model.safetensors"
        assert (folder.parent / "best" / weights).exists()
    assert results[0]["eval_loss"] != results[1]["eval_loss"]
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["lr_scheduler"], config["warmup_steps"], config["epochs"]) == ("linear", 0.06, 3)
    assert config["best_by"] == ("loss" if task == "clm" else "accuracy")


@pytest.mark.usefixtures("without_curves")
@pytest.mark.parametrize(("args", "rate"), [([], 5e-5), (["--peft", "lora"], 2e-4)])
def test_learning_rate_by_what_is_trained(tmp_path, make, args, rate):
    args = [*make("sequence", "bert"), *args, "--attention", "sdpa", "--max_steps", "1", "--output_dir", str(tmp_path)]
    finetune.main(args)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["learning_rate"] == rate
    assert (config["optimizer"], config["max_grad_norm"], config["target_accuracy"]) == ("adamw", 1.0, None)


def test_defaults_of_sizes_and_attentions(make):
    options = [a for a in make("sequence", "bert") if a not in ("--batch_size", "5", "--eval_batch_size", "7")]
    parsed, examples, *_ = finetune.parse(*finetune.OPTIONS, args=options)
    experiment = finetune.make_experiment(start(finetune.TrainingOptions(), 1), parsed, examples)
    filled = finetune.TrainingOptions().filled(**experiment.defaults)
    assert (filled.batch_size, filled.eval_batch_size, filled.epochs) == (16, 64, 3)
    assert experiment.attentions == ("sdpa", "topk_sparse:k=8", "banded_sparse:window=16")


@pytest.mark.usefixtures("without_curves")
def test_first_step_of_equivalent_attentions_is_the_same(tmp_path, make):
    args = [*make("sequence", "bert"), *LORA, "--max_steps", "1", "--logging_steps", "1"]
    finetune.main([*args, "--attention", "sdpa", "topk_sparse:k=40", "--output_dir", str(tmp_path)])
    losses = [record["train_loss"] for record in timeless(tmp_path) if record["kind"] == "step"]
    assert losses == pytest.approx([losses[0]] * 2, rel=1e-5)


@pytest.mark.usefixtures("without_curves")
@pytest.mark.parametrize("family", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
def test_gradient_checkpointing_with_lora_changes_nothing(tmp_path, make, family):
    args = [*make("sequence", family), *LORA, "--attention", "topk_sparse:k=3", "--max_steps", "4"]
    [plain] = finetune.main([*args, "--output_dir", str(tmp_path / "plain")])
    [saving] = finetune.main([*args, "--gradient_checkpointing", "--output_dir", str(tmp_path / "saving")])
    assert saving["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-6)
    assert saving["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-5)


@pytest.mark.usefixtures("without_curves")
def test_schedule_of_attentions_with_lora(tmp_path, make):
    schedule = "topk_sparse:k=40@1>topk_sparse:k=2"
    args = [*make("sequence", "llama"), *LORA, "--attention", schedule, "--max_steps", "3"]
    finetune.main([*args, "--output_dir", str(tmp_path)])
    [last] = tmp_path.glob("runs/*/last")
    assert json.loads((last / "adapter_config.json").read_text())["hf_semfocus"]["attention"] == "topk_sparse:k=2"


@pytest.mark.parametrize(("task", "total"), [("sequence", 43), ("token", None)])
def test_the_classes_found_are_printed_before_the_training(task, total, tmp_path, make, capsys):
    args = [*make(task, "bert"), "--attention", "sdpa", "--max_steps", "1", "--epochs", "1"]
    finetune.main([*args, "--output_dir", str(tmp_path)])
    out = capsys.readouterr().out
    found = re.search(r"has (3 classes: 'bad' (\d+), 'fine' (\d+), 'good' (\d+))\n", out)
    assert found.start() < out.index("sdpa/3")
    counts = list(map(int, found.groups()[1:]))
    [train] = Path(args[args.index("--dataset") + 1]).glob("train.*")
    assert counts == [len(re.findall(name, train.read_text())) for name in LABELS]
    assert total is None or sum(counts) == total
    assert f"The training split has {found[1]}." in (tmp_path / "report.md").read_text()


def test_long_texts_are_cut_and_counted(tmp_path, make, capsys):
    args = [*make("sequence", "bert"), "--max_length", "6", "--attention", "topk_sparse:k=3", "--max_steps", "1"]
    finetune.main([*args, "--output_dir", str(tmp_path)])
    long = sum(len(words) + 1 > 6 for words in sentences(43, 0))
    said = f"{long} of 43 training examples were longer than 6 tokens and cut."
    assert said in (tmp_path / "report.md").read_text()
    assert said in capsys.readouterr().out


def test_some_of_the_examples_are_the_same_for_every_seed(tmp_path, make):
    args = [*make("sequence", "bert"), "--train_size", "9", "--eval_size", "6"]
    options, examples, *_ = finetune.parse(*finetune.OPTIONS, args=args)
    experiment = finetune.make_experiment(start(finetune.TrainingOptions(), 1), options, examples)
    train, held_out = experiment.rows(1)
    assert (len(train), len(held_out)) == (9, 6)
    other, _ = finetune.make_experiment(start(finetune.TrainingOptions(), 1), options, examples).rows(2)
    assert train.labels.tolist() == other.labels.tolist()


@pytest.mark.parametrize("peft", [[], LORA], ids=["full", "lora"])
def test_dry_run_of_publishing(tmp_path, make, peft):
    args = [*make("sequence", "bert"), *peft, *TWO, "--max_steps", "2", "--output_dir", str(tmp_path)]
    args += ["--push_to_hub", "--hub_model_id", "me/tiny", "--dry_run"]
    if peft:
        with pytest.warns(UserWarning, match="the base model is the folder"):
            finetune.main(args)
        kept = json.loads((tmp_path / "hub" / "adapter_config.json").read_text())["hf_semfocus"]
        assert kept["attention"] == "topk_sparse:k=3"
    else:
        finetune.main(args)
    files = {path.name for path in (tmp_path / "hub").iterdir()}
    assert {"README.md", "tokenizer.json", "adapter_model.safetensors" if peft else "model.safetensors"} <= files
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "topk_sparse:k=3" in card
    assert "text-classification" in card
    assert str(tmp_path) not in card.partition("---\n\n")[0]
    folder = tmp_path / "runs" / "topk_sparse_k=3_3" / "last"
    ids = torch.tensor([[1, 7, 9, 4, 8, 22]])
    first = come_back("sequence", folder, "topk_sparse:k=3", peft)
    if peft:
        base = AutoModelForSequenceClassification.from_pretrained(model_of(make("sequence", "bert")), num_labels=3)
        second = load_adapter(tmp_path / "hub", base).eval()
    else:
        second = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub").eval()
    torch.testing.assert_close(first(ids).logits, second(ids).logits, rtol=0, atol=0)


def test_two_processes_equal_one(tmp_path, make):
    args = [*make("sequence", "bert"), *LORA, *TWO, "--max_steps", "5", "--swap", "topk_sparse", "--swap_k", "2"]
    # 43 = 8 * 5 + 3 and 23 = 3 * 7 + 2
    finetune.main([*args, "--output_dir", str(tmp_path / "one")])
    two = Life("finetune", [*args, "--output_dir", tmp_path / "two"], world=2, log=tmp_path / "life")
    assert two.end() == [0, 0], two.errors
    for name in ("metrics.jsonl", "swap.jsonl"):
        one, two = read(tmp_path / "one" / name), read(tmp_path / "two" / name)
        assert len(one) == len(two) == 2
        for expected, record in zip(one, two, strict=True):
            assert record.keys() == expected.keys()
            for key in expected.keys() - set(CLOCKED):
                value = expected[key]
                assert record[key] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)


@pytest.mark.slow
def test_kill_minus_nine_and_resume(tmp_path, make):
    # embeddings tied to the head, whose weights a checkpoint holds once
    model = save_checkpoint(tmp_path / "tied", "llama", causal=True, tie_word_embeddings=True)
    args = [*make("clm", "llama"), "--model", model, *LORA, *TWO, "--epochs", "12"]
    finetune.main([*args, "--output_dir", str(tmp_path / "whole")])
    killed = [*args, "--output_dir", tmp_path / "killed"]
    life = Life(
        "finetune", killed, Strike("hf_semfocus.training.log:MetricsLog.append", 15, kill), log=tmp_path / "life"
    )
    assert life.end() == [-signal.SIGKILL], life.errors
    assert sum(len(read(log)) for log in (tmp_path / "killed").glob("runs/*/metrics.jsonl")) == 14
    finetune.main([*args, "--output_dir", str(tmp_path / "killed"), "--resume"])
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")
    adapters = sorted((tmp_path / "whole").glob("runs/*/[bl]*/adapter_model.safetensors"))
    assert len(adapters) == 4
    for adapter in adapters:
        assert (tmp_path / "killed" / adapter.relative_to(tmp_path / "whole")).read_bytes() == adapter.read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--task", "chess"], "task='chess'; expected one of sequence, token, clm"),
        (
            ["--model", "bert"],
            "model='bert' would have random weights; expected .* google-bert/bert-base-uncased",
        ),
        (["--model", "/nowhere"], "model='/nowhere'; expected a folder or a name on the Hub, with a model: "),
        (["--dataset", "/nowhere"], "dataset='/nowhere': no such file or folder"),
        (["--label_column", "stars"], "has no column 'stars'; expected label_column to be one of"),
        (["--text_columns", "body"], "has no column 'body'; expected text_columns to be of"),
        (["--task", "token"], "has no column 'ner_tags'"),
        (["--max_length", "1"], "max_length=1; expected an integer above 1"),
        (["--block_size", "8"], "block_size=8 does not apply to task='sequence'"),
        (["--task", "clm", "--max_length", "8"], "max_length=8 does not apply to task='clm'"),
        (["--task", "clm", "--text_columns", "a", "b"], r"text_columns=\['a', 'b'\]; expected one for task='clm'"),
        (["--lora_r", "4"], "lora_r=4 is for LoRA; expected peft='lora' with it"),
        (["--lora_target_modules", "query"], r"lora_target_modules=\['query'\] is for LoRA"),
        (["--peft", "lora", "--lora_r", "0"], "r=0; expected an integer of at least 1"),
        (["--peft", "lora", "--lora_target_modules", "x"], "'x' is not a linear layer"),
        (["--attention", "topk"], "topk_sparse"),
        (["--swap_k", "4"], r"swap_k=\[4\] is for a swap"),
        (["--swap", "topk_sparse", "--swap_only"], "swap_only=True, but the head for task='sequence' is new"),
        (
            ["--swap", "topk_sparse", "--attention", "topk_sparse:k=2"],
            r"attention=\['topk_sparse:k=2'\]; expected sdpa among them",
        ),
        (["--train_size", "0"], "train_size=0; expected an integer of at least 1"),
    ],
)
def test_mistakes_end_it_before_anything_is_written(tmp_path, make, args, message):
    folder = tmp_path / "output"
    with pytest.raises(ValueError, match=message) as caught:
        finetune.main([*make("sequence", "bert"), "--output_dir", str(folder), *args])
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_titles_are_without_folders(tmp_path):
    (tmp_path / "model-1.7B").mkdir()
    (tmp_path / "book.txt").write_text("")
    assert title("clm", str(tmp_path / "book.txt"), str(tmp_path / "model-1.7B")) == "clm-book-model-1.7B"
    assert title("sequence", "owner/data", "owner/model-1.7B") == "sequence-owner-data-owner-model-1.7B"


@pytest.mark.parametrize("missing", ["--model", "--dataset"])
def test_what_must_be_given(make, missing):
    args = make("sequence", "bert")
    place = args.index(missing)
    with pytest.raises(ValueError, match=rf"{missing[2:]}=None; expected"):
        finetune.main(args[:place] + args[place + 2 :])


def test_checkpoints_that_do_not_fit_the_data(tmp_path, make):
    args = make("sequence", "bert")
    short = save_checkpoint(tmp_path / "short", "bert", max_position_embeddings=10)
    message = r"the longest example has 13 tokens, and model='.*' has 10 positions; expected max_length of at most 10"
    with pytest.raises(ValueError, match=message):
        finetune.main([*args, "--model", short])
    with pytest.raises(ValueError, match="expected max_length of at most 10"):
        finetune.main([*args, "--model", short, "--max_length", "11"])
    few = save_checkpoint(tmp_path / "few", "bert", vocab_size=40)
    with pytest.raises(ValueError, match="has 40 token ids; the task needs 5"):
        finetune.main([*args, "--model", few])
    config = tiny_config("bert", num_labels=2, architectures=["BertForSequenceClassification"])
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "two")
    a_tokenizer("bert").save_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match="has a head for 2 classes, and the data have 3"):
        finetune.main([*args, "--model", str(tmp_path / "two")])


def test_checkpoints_without_such_a_head(tmp_path, make):
    encoder = save_checkpoint(tmp_path / "encoder", "bert")
    with pytest.raises(ValueError, match="sees the tokens after a position; expected a causal language model"):
        finetune.main([*make("clm", "llama"), "--model", encoder])
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 61}
    T5Config(**sizes).save_pretrained(tmp_path / "t5")
    a_tokenizer("bert").save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="is of the family 't5', which cannot be a causal_lm"):
        finetune.main([*make("clm", "llama"), "--model", str(tmp_path / "t5")])


def test_an_empty_data_set(tmp_path, make):
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(ValueError, match="empty") as caught:
        finetune.main([*make("sequence", "bert"), "--dataset", str(tmp_path / "empty.csv")])
    assert "\n" not in str(caught.value)


def test_positions_that_start_after_the_padding(tmp_path, make):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    config = RobertaConfig(**sizes, vocab_size=61, pad_token_id=0, max_position_embeddings=12)
    model = save_checkpoint(tmp_path / "roberta", config)
    with pytest.raises(ValueError, match=r"the longest example has 12 tokens, and model='.*' has 11 positions"):
        finetune.main([*make("sequence", "bert"), "--model", model])


def test_a_user_sees_one_line(make, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["finetune.py", *make("sequence", "bert"), "--task", "chess"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(recipe.ROOT / "recipes" / "finetune.py"), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "finetune.py: error: task='chess'; expected one of sequence, token, clm\n"
