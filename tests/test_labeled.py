"""Labeled texts: what is read, what is refused, and rows against tokens and labels laid out by hand."""

import gzip
import itertools
import json
import math
import re
import warnings

import datasets
import numpy as np
import pytest
import torch
from conftest import tiny_config
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForTokenClassification, BertTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from hf_semfocus.data import LabeledRows, TaggedRows, load_labeled, train_tokenizer
from hf_semfocus.training import token_classification

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b", "##cc", "é", "中", "!"]
PAD, UNK, CLS, SEP = range(4)


pytestmark = pytest.mark.usefixtures("own_datasets_cache")


@pytest.fixture(scope="module")
def bert():
    """WordPiece with special tokens and token types; keeps accents."""
    return BertTokenizer(vocab={t: i for i, t in enumerate(VOCABULARY)}, strip_accents=False)


@pytest.fixture(scope="module")
def gpt2():
    """Byte-level BPE without special tokens."""
    return train_tokenizer([{"text": "hello world of words, it is a world " * 3}], vocab_size=300)


class Slow(PreTrainedTokenizer):
    """Written in Python: one token per word, x or y, and what only the constructor gives."""

    def __init__(self, **special):
        self.vocab = {"<s>": 0, "x": 1, "y": 2}
        super().__init__(**special)

    vocab_size = 3

    def get_vocab(self):
        return dict(self.vocab)

    def _tokenize(self, text, **kwargs):
        return text.split()

    def _convert_token_to_id(self, token):
        return self.vocab.get(token, 2)

    def _convert_id_to_token(self, index):
        return list(self.vocab)[index]


def write(folder, records, name="data.jsonl"):
    path = folder / name
    content = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
    return str(path)


def load(records, folder, validation=None, **options):
    """Load records as a file, or as a folder of two splits."""
    if validation is None:
        return load_labeled(write(folder, records), **options)
    write(folder, records, "train.jsonl"), write(folder, validation, "validation.jsonl")
    return load_labeled(str(folder), **options)


def reviews(count):
    """Sorted by label, as files often are."""
    return [{"text": f"text {i}", "label": "good" if i >= count // 2 else "bad"} for i in range(count)]


# Classes
@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["b", "a", "ä", "B"], ["B", "a", "b", "ä"], [2, 1, 3, 0]),
        ([3, 1, 1], ["0", "1", "2", "3"], [3, 1, 1]),
        ([2.0, 0.0], ["0", "1", "2"], [2, 0]),
        ([True, False], ["False", "True"], [1, 0]),
        ([True, True], ["False", "True"], [1, 1]),
        (["10", "9"], ["10", "9"], [0, 1]),
    ],
)
def test_classes_of_labels(labels, names, numbers, tmp_path):
    records = [{"text": "x", "label": label} for label in labels]
    data = load(records, tmp_path, validation=records[::-1])
    assert data.label_names == names
    assert (data.train["label"][:], data.validation["label"][:]) == (numbers, numbers[::-1])
    assert data.train.features["label"] == ClassLabel(names=names)
    # the same labels as tags
    tagged = [{"tokens": ["x"] * len(labels), "tags": labels}]
    (tmp_path / "tags").mkdir()
    data = load(tagged, tmp_path / "tags", validation=tagged, kind="token")
    assert (data.label_names, data.validation["labels"][:]) == (names, [numbers])


def test_class_labels_keep_their_names(monkeypatch):
    names = ["positive", "negative", "none of both"]
    rows = {"sentence": ["a", "b"], "label": [2, 0], "idx": [0, 1]}
    features = Features(sentence=Value("string"), label=ClassLabel(names=names), idx=Value("int32"))
    split = Dataset.from_dict(rows, features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: DatasetDict(train=split, validation=split))
    data = load_labeled("someone/reviews")
    assert data.label_names == names
    assert data.train[:] == {"text": ["a", "b"], "label": [2, 0]}
    words = Dataset.from_dict(
        {"words": [["a", "b"]], "pos_tags": [[0, 1]], "ner_tags": [[2, 2]]},
        Features(words=List(Value("string")), pos_tags=List(Value("int64")), ner_tags=List(ClassLabel(names=names))),
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: DatasetDict(train=words, validation=words))
    assert load_labeled("someone/words", kind="token").train[:] == {"words": [["a", "b"]], "labels": [[2, 2]]}
    other = load_labeled("someone/words", kind="token", label_column="pos_tags")
    assert (other.label_names, other.train["labels"][:]) == (["0", "1"], [[0, 1]])


BAD_LABELS = {
    "missing": (
        [None, "a", "b"],
        None,
        r"label None in line 1 of data.jsonl; expected a string, a boolean or an integer",
    ),
    "empty": (["a", "b", ""], None, "label '' in line 3 of data.jsonl"),
    "a fraction": (
        [0, 1, 1.5],
        None,
        r"label 1\.5 in line 3 of data.jsonl; expected a string, a boolean or an integer",
    ),
    "not a number": ([1.0, float("nan")], None, "label nan in line 2 of data.jsonl; expected a string"),
    "a large number": ([1.0, 65536.0], None, r"label 65536\.0 in line 2 of data.jsonl; expected a string"),
    "negative": ([0, 1, -1], None, "label -1 in line 3 of data.jsonl; .*integer from 0 to 65535"),
    "row numbers": ([0, 65536], None, "label 65536 in line 2 of data.jsonl"),
    "a list": ([["a"], ["b"]], None, r"label \['a'\] in line 1 of data.jsonl; expected a string"),
    "an object": ([{"a": 1}, {"a": 2}], None, r"label \{'a': 1\} in line 1 of"),
    "one class": (["a", "a"], None, "the labels are of 1 class, 'a'; expected at least two"),
    "one number": ([0, 0], None, "the labels are of 1 class, '0'; expected at least two"),
    "new in validation": (
        ["a", "b"],
        ["a", "c"],
        "label 'c' in line 2 of validation.jsonl; expected .* 2 classes of 'train', 'a', 'b'$",
    ),
    "missing in validation": (
        ["a", "b"],
        ["a", None],
        "label None in line 2 of validation.jsonl; expected one of the 2",
    ),
    "above all": (
        [0, 11],
        [5, 12],
        r"label 12 in line 2 of validation.jsonl; .* 12 classes of 'train', '0', .*'7', \.\.\. \(4 more\)",
    ),
    "negative in validation": (
        [0, 1],
        [0, -1],
        "label -1 in line 2 of validation.jsonl; expected one of the 2 classes",
    ),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_labels_that_are_refused(case, tmp_path):
    labels, validation, message = BAD_LABELS[case]
    records = [{"text": "x", "label": label} for label in labels]
    others = validation and [{"text": "x", "label": label} for label in validation]
    with pytest.raises(ValueError, match=message) as caught:
        load(records, tmp_path, validation=others)
    assert re.match(r"dataset='.*', columns \['text', 'label'\]: ", str(caught.value))
    assert "\n" not in str(caught.value)


def test_class_labels_that_are_missing(monkeypatch):
    features = Features(text=Value("string"), label=ClassLabel(names=["n", "y"]))
    split = Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: DatasetDict(train=split))
    with pytest.raises(ValueError, match=r"label -1 in row 2 of 'train'; expected one of the 2 classes .*, 'n', 'y'"):
        load_labeled("someone/test-set")


# Files, columns, splits
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "json", "jsonl.gz", "parquet"])
def test_kinds_of_files(kind, tmp_path):
    path, table = tmp_path / f"data.{kind}", Dataset.from_list(reviews(20))
    if kind.startswith("csv"):
        table.to_csv(tmp_path / "data.csv")
        if kind.endswith("gz"):
            path.write_bytes(gzip.compress((tmp_path / "data.csv").read_bytes()))
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        write(tmp_path, reviews(20), path.name)
    data = load_labeled(str(path))
    assert (data.kind, data.label_names) == ("sequence", ["bad", "good"])
    rows = [*data.train, *data.validation]
    expected = [{"text": r["text"], "label": int(r["label"] == "good")} for r in reviews(20)]
    assert sorted(rows, key=str) == sorted(expected, key=str)


def test_cells_of_a_csv_file_are_what_they_say(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,label\nNA,None\n,null\nnan,None\nx,null\n")
    data = load_labeled(str(path))
    assert data.label_names == ["None", "null"]
    rows = {(r["text"], r["label"]) for r in [*data.train, *data.validation]}
    assert rows == {("NA", 0), ("", 1), ("nan", 0), ("x", 1)}
    path.write_text("text,label\na,1\nb,\nc,0\n")
    with pytest.raises(ValueError, match=r"label '' in line 3 of data\.csv"):
        load_labeled(str(path))


def test_numbers_in_a_csv_file(tmp_path):
    """Labels that look like numbers are integers, whatever the order of the files and their spelling; texts never."""
    (tmp_path / "train.csv").write_text("text,label\n1,10\n2, 2\n3,007\n4,2.0\n")
    (tmp_path / "validation.csv").write_text("text,label\n5,7\n")
    data = load_labeled(str(tmp_path))
    assert data.label_names == [str(number) for number in range(11)]
    assert data.train[:] == {"text": ["1", "2", "3", "4"], "label": [10, 2, 7, 2]}
    assert data.validation[:] == {"text": ["5"], "label": [7]}


@pytest.mark.parametrize(
    ("cells", "names", "numbers"),
    [
        (["True", "false", "TRUE"], ["False", "True"], [1, 0, 1]),
        (["true", "half-true", "false"], ["false", "half-true", "true"], [2, 1, 0]),
        (["18-24", "25-34", "65+"], ["18-24", "25-34", "65+"], [0, 1, 2]),
    ],
)
def test_truth_and_text_in_a_csv_file(cells, names, numbers, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *(f"x,{cell}" for cell in cells)]))
    data = load_labeled(str(tmp_path))
    assert (data.label_names, data.train["label"][:], data.validation["label"][:]) == (names, numbers, numbers)


LATIN = "text,label\nplain,a\ncaf\xe9,b\n".encode("latin-1")
FILES = {
    "only a header": ({"a.csv": "text,label\n"}, "a.csv has only a header, line 1; add a line for every example"),
    "empty": ({"a.csv": ""}, "a.csv is empty; expected a header, such as text,label, and a line for every example"),
    "Latin-1": (
        {"a.csv": LATIN},
        "line 3 of a.csv is not UTF-8 (byte 0xe9); save the file as UTF-8, perhaps with: ico",
    ),
    "UTF-16": (
        {"a.csv": "text,label\nx,a\n".encode("utf-16")},
        "line 1 of a.csv is not UTF-8 (byte 0xff); save the fi",
    ),
    "packed": ({"a.csv.gz": gzip.compress(LATIN)}, "line 3 of a.csv.gz is not UTF-8"),
    "Latin-1 in JSON": (
        {"a.jsonl": b'{"text": "x", "label": "a"}\n\n{"text": "caf\xe9", "label": "b"}\n'},
        "line 3 of a.jsonl is not UTF-8 (byte 0xe9); save the file",
    ),
    "no JSON": (
        {"a.jsonl": '{"text": "x", "label": "a"}\n{"text": "y", "label":\n'},
        "line 2 of a.jsonl is not JSON (Expecting value, column 23); expected an object on every line",
    ),
    "a comma too many": (
        {"a.csv": "text,label\nx,a\ny, and z,b\n"},
        'line 3 of a.csv has 3 cells, and its header 2; put a text that holds a comma in "quotes"',
    ),
    "semicolons": ({"a.csv": "text;label\nx;a\n"}, "['text;label']; are its cells separated by ';'? expected commas"),
    "a file of many": (
        {"b/train.csv": "text,label\nx,a\n", "b/validation.csv": LATIN},
        "line 3 of b/validation.csv is not UTF-8 (byte 0xe9); ",
    ),
    "mixed": (
        {"a.csv": 'text,label\n"x\ny",1\n\nz,good\n'},
        "there are labels of several kinds, integers (1 in line 2 of a.csv) and text ('good' in line 5 of a.csv); wr",
    ),
    "mixed far below": (
        {"a.csv": "text,label\n" + "x,1\ny,0\n" * 5001 + "z,good\n"},
        "integers (1 in line 2 of a.csv) and text ('good' in line 10004 of a.csv); write all of them in one way",
    ),
    "mixed files": (
        {"a.csv": "text,label\nx,1\ny,0\n", "b.csv": "text,label\nx,1\ny,True\n"},
        "integers (1 in line 2 of a.csv) and text ('True' in line 3 of b.csv); write",
    ),
    "mixed in JSON": (
        {"a.json": '[{"text": "x", "label": true},\n{"text": "y", "label": 1}]'},
        "truth values (True in record 1 of a.json) and integers (1 in record 2 of a.json); write",
    ),
    "new in validation": (
        {"train.csv": "text,label\nx,1\ny,0\n", "validation.csv": "text,label\nx,1\ny,good\n"},
        "label 'good' in line 3 of validation.csv; expected one of the 2 classes of 'train', '0', '1'",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_faults_are_found_where_a_person_finds_them(case, tmp_path, capfd):
    files, message = FILES[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = str(tmp_path if len(files) > 1 else tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_labeled(dataset)
    assert str(caught.value).startswith(f"dataset={dataset!r}")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_rows_of_parquet_are_counted_from_one(tmp_path):
    Dataset.from_dict({"text": ["x", "y", "z"], "label": ["a", "b", ""]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"label '' in row 3 of a\.parquet"):
        load_labeled(str(tmp_path / "a.parquet"))


COLUMNS = {
    "text before others": ({"title": "t", "text": "x", "label": 0}, {}, {"text": "x"}),
    "sentence": ({"title": "t", "sentence": "x", "labels": 0}, {}, {"text": "x"}),
    "the only text": ({"n": 1, "body": "x", "label": "c"}, {}, {"text": "x"}),
    "named": (
        {"text": "t", "body": "x", "stars": 0},
        {"text_columns": "body", "label_column": "stars"},
        {"text": "x"},
    ),
    "a pair": ({"b": "y", "a": "x", "label": 0}, {"text_columns": ["a", "b"]}, {"text": "x", "text_pair": "y"}),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_which_columns_are_read(case, tmp_path):
    record, options, expected = COLUMNS[case]
    column = options.get("label_column") or next(name for name in record if name.startswith("label"))
    records = [{**record, column: label} for label in ("b", "a")]
    data = load(records, tmp_path, validation=records, **options)
    assert data.train[:] == {**{name: [value] * 2 for name, value in expected.items()}, "label": [1, 0]}


BAD_COLUMNS = {
    "no label": (
        [{"text": "x", "n": 1}],
        {},
        r"no column 'label'; expected label_column to be one of \['text', 'n'\]",
    ),
    "not that label": ([{"text": "x", "label": 1}], {"label_column": "y"}, "no column 'y'; expected label_column"),
    "two texts": (
        [{"q": "x", "a": "y", "label": 1}],
        {},
        r"no column 'text'; expected text_columns to be of \['q', 'a'\]",
    ),
    "not that text": (
        [{"text": "x", "label": 1}],
        {"text_columns": ["text", "b"]},
        r"no column 'b'; .* of \['text'\]",
    ),
    "the label": ([{"text": "x", "label": "y"}], {"text_columns": "label"}, r"no column 'label'; .* of \['text'\]"),
    "three texts": (
        [{"text": "x", "label": "y"}],
        {"text_columns": ["a", "b", "c"]},
        r"text_columns=\['a', 'b', 'c'\]; expected 1 or 2 of \['text'\]",
    ),
    "no text": ([{"text": "x", "label": "y"}], {"text_columns": []}, r"text_columns=\[\]; expected 1 or 2"),
    "twice": ([{"text": "x", "label": "y"}], {"text_columns": ["text", "text"]}, "expected 1 or 2"),
    "numbers": ([{"text": 1, "label": "y"}], {}, "text 1 in line 1 of data.jsonl; expected text"),
    "missing": (
        [{"text": "x", "label": "y"}, {"text": None, "label": "z"}],
        {},
        "text None in line 2 of data.jsonl; expected text",
    ),
    "two for tokens": (
        [{"tokens": ["x"], "tags": [1]}],
        {"kind": "token", "text_columns": ["a", "b"]},
        r"expected 1 of \['tokens'\]",
    ),
    "no words": (
        [{"text": "x", "tags": [1]}],
        {"kind": "token"},
        r"no column 'tokens'; expected text_columns to be of \['text'\]",
    ),
    "no tags": ([{"tokens": ["x"], "label": [1]}], {"kind": "token"}, "no column 'ner_tags'; expected label_column"),
    "one row": ([{"text": "x", "label": "a"}], {"label_column": "label"}, "expected at least two"),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_columns_that_are_refused(case, tmp_path):
    records, options, message = BAD_COLUMNS[case]
    with pytest.raises(ValueError, match=message) as caught:
        load(records, tmp_path, **options)
    assert "data.jsonl" in str(caught.value) or "text_columns=" in str(caught.value)


BAD_TAGS = {
    "fewer tags": (
        ["x", "y"],
        ["a"],
        r"tags \['a'\] in line 2 of data.jsonl; expected a list with a label for each of its 2 words",
    ),
    "more tags": (["x"], ["a", "b"], r"tags \['a', 'b'\] in line 2 of"),
    "no list of tags": (["x"], None, "tags None in line 2 of data.jsonl; expected a list"),
    "no words": ([], [], r"tokens \[\] in line 2 of data.jsonl; expected a list of words, at least one"),
    "missing words": (None, ["a"], "tokens None in line 2 of data.jsonl"),
    "a missing word": (
        ["x", None],
        ["a", "b"],
        r"tokens \['x', None\] in line 2 of data.jsonl; expected a list of words",
    ),
    "a missing tag": (["x", "y"], ["a", None], "label None in line 2 of data.jsonl; expected a string"),
}


@pytest.mark.parametrize("case", BAD_TAGS)
def test_tags_that_are_refused(case, tmp_path):
    words, tags, message = BAD_TAGS[case]
    records = [{"tokens": ["x", "y"], "tags": ["a", "b"]}, {"tokens": words, "tags": tags}]
    with pytest.raises(ValueError, match=message):
        load(records, tmp_path, kind="token")


def test_words_of_a_csv_file_are_no_lists(tmp_path):
    (tmp_path / "data.csv").write_text("tokens,tags\nx y,a b\n")
    with pytest.raises(ValueError, match=r"tokens 'x y' in line 2 of data\.csv; expected a list of words"):
        load_labeled(str(tmp_path / "data.csv"), kind="token")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "pair"}, "kind='pair'; expected one of sequence, token"),
        ({"validation_fraction": 1}, "validation_fraction=1; expected a share between 0 and 1"),
        ({"seed": -1}, "seed=-1; expected an integer of at least 0"),
        ({"seed": True}, "seed=True; expected an integer"),
        ({"dataset": "./nothing.csv"}, r"dataset='\./nothing\.csv': no such file or folder"),
        ({"dataset": "nobody/nothing"}, "'nobody/nothing' cannot be read: .*Hub"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_labeled(**{"dataset": "x.csv", **options})


def test_a_validation_split_without_rows_or_columns(monkeypatch):
    train = Dataset.from_list(reviews(4))
    for validation, message in (
        (train.select([]), "'validation' has no rows"),
        (train.remove_columns("label"), "no column"),
    ):
        splits = DatasetDict(train=train, validation=validation)
        monkeypatch.setattr(datasets, "load_dataset", lambda *a, splits=splits, **k: splits)
        with pytest.raises(ValueError, match=message):
            load_labeled("someone/odd")


# What is held out
@pytest.mark.parametrize(
    ("count", "fraction", "held_out"), [(2, 0.1, 1), (41, 0.1, 4), (41, 0.6, 25), (100, 0.001, 1)]
)
def test_random_rows_are_held_out(count, fraction, held_out, tmp_path):
    data = load(reviews(count), tmp_path, validation_fraction=fraction)
    numbers = {name: [int(t.split()[1]) for t in getattr(data, name)["text"]] for name in ("train", "validation")}
    assert len(numbers["validation"]) == held_out
    assert sorted(numbers["train"] + numbers["validation"]) == list(range(count))
    assert all(part == sorted(part) for part in numbers.values())
    assert data.label_names == ["bad", "good"]


def test_both_classes_of_a_sorted_file_are_held_out_and_seeds_differ(tmp_path):
    path = write(tmp_path, reviews(200))
    parts = [load_labeled(path, seed=seed).validation for seed in (0, 0, 1)]
    assert parts[0][:] == parts[1][:] != parts[2][:]
    assert 3 <= sum(parts[0]["label"]) <= 17


def test_the_same_rows_are_held_out_everywhere(tmp_path):
    held_out = load(reviews(50), tmp_path, seed=7).validation["text"][:]
    assert held_out == [f"text {i}" for i in (23, 32, 37, 38, 42)]


def test_too_few_rows_to_hold_any_out(tmp_path):
    with pytest.raises(ValueError, match="has 2 rows and no validation split; expected more of them, to hold 2 out"):
        load(reviews(2), tmp_path, validation_fraction=0.9)


# Rows of texts
TEXTS = ["a", "ab cc", "", "é中 !", "aaaa b a b a b", "x [SEP] y", "a b c"]


def texts(lines, labels=None, pairs=None):
    table = {"text": lines, "label": labels or [i % 3 for i in range(len(lines))]}
    return Dataset.from_dict({**table, **({"text_pair": pairs} if pairs else {})})


def pieces(tokenizer, text):
    """Tokens of a text without special ones, word by word."""
    marked = text.replace("[SEP]", "[ SEP ]")
    return [i for word in marked.split() for i in tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))]


def test_texts_are_tokenized_and_padded_as_by_hand(bert):
    rows = LabeledRows(texts(TEXTS), bert)
    expected = [[CLS, *pieces(bert, text), SEP] for text in TEXTS]
    assert rows.longest == max(map(len, expected)) == 2 + 4 + 5
    assert (len(rows), rows.truncated, rows.units(np.arange(5))) == (len(TEXTS), 0, 5)
    assert rows.with_epoch(3) is rows
    for order, together in itertools.product([[0], [6, 2, 2], [5, 1]], [[5, 6, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6]]):
        batch = rows.batch(np.array(order), np.array(together))
        longest = max(len(expected[i]) for i in together)
        for name, filler, line in (
            ("input_ids", PAD, lambda ids: ids),
            ("attention_mask", 0, lambda ids: [1] * len(ids)),
            ("token_type_ids", 0, lambda ids: [0] * len(ids)),
        ):
            by_hand = [line(expected[i]) + [filler] * (longest - len(expected[i])) for i in order]
            assert batch[name].tolist() == by_hand
        assert batch["labels"].tolist() == [i % 3 for i in order]
        assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_on_the_right_whatever_the_tokenizer_does(side, gpt2):
    before = gpt2.padding_side
    gpt2.padding_side = side
    batch = LabeledRows(texts(["hello world", "a"]), gpt2).batch(np.arange(2), np.arange(2))
    gpt2.padding_side = before
    assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist(), reverse=True)
    assert (batch["input_ids"][1, 1:] == gpt2.pad_token_id).all()
    assert "token_type_ids" not in batch


def test_pairs_are_separated_and_told_apart(bert):
    rows = LabeledRows(texts(["a b", ""], pairs=["c", "a"]), bert)
    batch = rows.batch(np.arange(2), np.arange(2))
    a, b, c = (VOCABULARY.index(letter) for letter in "abc")
    assert batch["input_ids"].tolist() == [[CLS, a, b, SEP, c, SEP], [CLS, SEP, a, SEP, PAD, PAD]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("max_length", [3, 5, 11, 100])
def test_long_texts_are_cut_and_counted(max_length, bert):
    rows = LabeledRows(texts(TEXTS), bert, max_length=max_length)
    expected = [[CLS, *pieces(bert, text)[: max_length - 2], SEP] for text in TEXTS]
    full = LabeledRows(texts(TEXTS), bert)
    assert rows.truncated == (full.lengths > max_length).sum()
    assert rows.longest == max(map(len, expected)) <= max_length
    assert rows.lengths.tolist() == list(map(len, expected))
    for i, ids in enumerate(expected):
        assert rows.batch(np.array([i]), np.array([i]))["input_ids"].tolist() == [ids]


def test_the_longer_text_of_a_pair_is_cut(bert):
    rows = LabeledRows(texts(["a " * 9], pairs=["b b"]), bert, max_length=8)
    a, b = VOCABULARY.index("a"), VOCABULARY.index("b")
    assert rows.batch(np.arange(1), np.arange(1))["input_ids"].tolist() == [[CLS, a, a, a, SEP, b, b, SEP]]


def test_thousands_of_texts_keep_their_order(bert):
    lines = [" ".join("abc"[(i >> j) % 3] for j in range(1 + i % 5)) for i in range(2500)]
    rows = LabeledRows(texts(lines), bert, max_length=5)
    assert rows.truncated == sum(len(line.split()) > 3 for line in lines)
    for i in (0, 1023, 1024, 1025, 2047, 2048, 2499):
        ids = rows.batch(np.array([i]), np.array([i]))["input_ids"][0].tolist()
        assert ids == [CLS, *pieces(bert, lines[i])[:3], SEP]


def test_long_texts_make_no_noise(bert, caplog):
    bert.model_max_length, before = 4, bert.model_max_length
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LabeledRows(texts(TEXTS), bert).longest == 11
    bert.model_max_length = before
    assert not caplog.records


def test_tokenizers_written_in_python_and_padding_with_the_end(bert):
    rows = LabeledRows(texts(["x y x", "y"], pairs=["y", "y"]), Slow(eos_token="<s>"), max_length=3)
    assert rows.batch(np.arange(2), np.arange(2))["input_ids"].tolist() == [[1, 2, 2], [2, 2, 0]]
    assert rows.truncated == 1
    with pytest.raises(ValueError, match="Slow has no pad_token and no eos_token; expected one to pad with"):
        LabeledRows(texts(["x"]), Slow())
    tagged = Dataset.from_dict({"words": [["x"]], "labels": [[0]]})
    with pytest.raises(ValueError, match="Slow cannot say which word a token is of; expected a fast tokenizer"):
        TaggedRows(tagged, Slow(eos_token="<s>"))


def test_rows_that_cannot_be(bert, gpt2):
    with pytest.raises(ValueError, match="there are 0 examples; expected at least one"):
        LabeledRows(texts([]), bert)
    with pytest.raises(ValueError, match=r"example 2, \{.*'text': ''.*\}, has no tokens; expected at least one"):
        LabeledRows(texts(["a", "", ""]), gpt2)
    for pairs, special in ((None, 2), (["a"], 3)):
        for max_length in (special, 0, -1, 7.5):
            with pytest.raises(
                ValueError, match=rf"max_length={max_length}; expected an integer above {special}, the"
            ):
                LabeledRows(texts(["a"], pairs=pairs), bert, max_length=max_length)


# Rows of words
def tagged(words):
    """Words with labels that count on through all rows."""
    counter = itertools.count()
    return Dataset.from_dict({"words": words, "labels": [[next(counter) for _ in line] for line in words]})


def aligned(tokenizer, words, first, max_length=None):
    """Tokens and labels of a row, each word tokenized alone."""
    ids, labels = [CLS], [-100]
    for number, word in enumerate(words):
        tokens = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))
        ids += tokens
        labels += [first + number if place == 0 else -100 for place in range(len(tokens))]
    room = len(ids) if max_length is None else max_length - 1
    return [*ids[:room], SEP], [*labels[:room], -100]


WORDS = st.lists(
    st.lists(st.text(alphabet="abcé中!❤ \u200b\x00́", max_size=5), min_size=1, max_size=7), min_size=1, max_size=5
)


@settings(max_examples=120)
@given(WORDS, st.sampled_from([None, 3, 4, 7]))
@example([["abcc", "", " ", "c!a", "❤", "a b"]], None)
@example([["abcc"], ["aaaa", "b"]], 4)
def test_labels_are_at_first_tokens(bert, words, max_length):
    data = tagged(words)
    firsts = [line[0] for line in data["labels"][:]]
    expected = [aligned(bert, line, first, max_length) for line, first in zip(words, firsts, strict=True)]
    empty = [i for i, (_, labels) in enumerate(expected) if max(labels) < 0]
    if empty:
        with pytest.raises(
            ValueError, match=rf"example {empty[0] + 1}, words \[.*\], has no labeled token; expected at"
        ):
            TaggedRows(data, bert, max_length)
        return
    rows, everything = TaggedRows(data, bert, max_length), np.arange(len(words))
    batch = rows.batch(everything[::-1], everything)
    longest = max(len(ids) for ids, _ in expected)
    assert rows.longest == longest
    for ids, labels, mask, (by_hand, tags) in zip(
        batch["input_ids"].tolist(), batch["labels"].tolist(), batch["attention_mask"], expected[::-1], strict=True
    ):
        padding = longest - len(by_hand)
        assert ids == by_hand + [PAD] * padding
        assert labels == tags + [-100] * padding
        assert mask.tolist() == [1] * len(by_hand) + [0] * padding
    assert rows.units(everything) == sum(label >= 0 for _, tags in expected for label in tags)
    assert type(rows.units(everything)) is int
    full = [len(aligned(bert, line, 0)[0]) for line in words]
    assert rows.truncated == sum(length > (max_length or math.inf) for length in full)


@settings(max_examples=60)
@given(st.lists(st.text(alphabet="helowrd,é❤.'", min_size=1, max_size=6), min_size=1, max_size=6))
@example(["hello", "world", "<eos>", "n't"])
def test_words_without_special_tokens_are_those_of_the_text(gpt2, words):
    """Byte-level BPE takes a space for a part of the word behind it."""
    text = " ".join(words)
    expected = gpt2(text, return_offsets_mapping=True, split_special_tokens=True)
    starts = [0, *np.cumsum([len(word) + 1 for word in words])[:-1].tolist()]
    batch = TaggedRows(tagged([words]), gpt2).batch(np.arange(1), np.arange(1))
    assert batch["input_ids"].tolist() == [expected.input_ids]
    seen = set()
    for (place, _), label in zip(expected.offset_mapping, batch["labels"][0].tolist(), strict=True):
        place += text[place] == " "
        word = max(i for i, start in enumerate(starts) if start <= place)
        assert label == (-100 if word in seen else word)
        seen.add(word)
    assert seen == set(range(len(words)))


SPLITTERS = {
    "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "bytes after a space": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "pieces": pre_tokenizers.Metaspace(prepend_scheme="always"),
    "pieces after the first": pre_tokenizers.Metaspace(prepend_scheme="first"),
    "pieces as they are": pre_tokenizers.Metaspace(prepend_scheme="never"),
    "words": pre_tokenizers.Whitespace(),
    "nothing": None,
}


@pytest.mark.parametrize("kind", SPLITTERS)
def test_words_are_as_in_a_text_if_the_tokenizer_knows_spaces(kind):
    words = ["ab", "a", "", "ba"]
    trained = Tokenizer(models.WordLevel({t: i for i, t in enumerate(["?", "ab", "a", "ba"])}, unk_token="?"))
    if SPLITTERS[kind]:
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer = SPLITTERS[kind]
        alphabet = ["a", "b", "\u2581", "\u0120"]
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=["?"], show_progress=False)
        trained.train_from_iterator(["ab a ba", "ab ab ba ba"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, pad_token="?")
    batch = TaggedRows(tagged([words]), tokenizer).batch(np.arange(1), np.arange(1))
    text = [1, 2, 3] if kind == "nothing" else tokenizer("ab a ba").input_ids
    assert batch["input_ids"].tolist() == [text]
    assert [label for label in batch["labels"][0].tolist() if label >= 0] == [0, 1, 3]


def test_units_are_of_the_rows_asked_for(bert):
    words = [["a"], ["a", "b", "c"], ["ab", "❤ !"]]
    rows = TaggedRows(tagged(words), bert)
    for order in ([0], [1, 2], [2, 2], [0, 1, 2]):
        labels = rows.batch(np.array(order), np.arange(3))["labels"]
        assert rows.units(np.array(order)) == (labels != -100).sum() == sum(len(words[i]) for i in order)


# Objective
class Said(torch.nn.Module):
    """Says the logits it was made with."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, input_ids):
        return self


def test_the_objective_is_the_sum_over_labels_alone():
    logits = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        logits[0, 0] = torch.tensor([1.0, 3.0, 3.0, 0.0, 3.0])  # a tie goes to the first
    labels = torch.randint(0, 5, (3, 7))
    labels[1], labels[2, 4:] = -100, -100
    loss, predictions, references = token_classification(Said(logits), {"input_ids": labels, "labels": labels})
    expected = sum(
        math.log(sum(math.exp(x - float(logits[i, j, labels[i, j]].detach())) for x in logits[i, j].tolist()))
        for i, j in itertools.product(range(3), range(7))
        if labels[i, j] >= 0
    )
    assert loss.shape == ()
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)
    assert predictions.shape == references.shape == (3, 7)
    assert (predictions.dtype, references.dtype) == (torch.int64, torch.int64)
    assert predictions[0, 0] == 1
    assert torch.equal(references, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal((gradient != 0).any(-1), labels >= 0)


def test_a_batch_costs_what_its_examples_cost_alone(bert):
    rows = TaggedRows(
        Dataset.from_dict({"words": [["abcc", "b"], ["a"] * 5, ["!"]], "labels": [[0, 1], [2, 1, 0, 1, 2], [1]]}), bert
    )
    model = AutoModelForTokenClassification.from_config(tiny_config("bert", num_labels=3)).eval()
    with torch.no_grad():
        together = token_classification(model, rows.batch(np.arange(3), np.arange(3)))
        alone = [token_classification(model, rows.batch(np.array([i]), np.array([i]))) for i in range(3)]
    assert float(together[0]) == pytest.approx(sum(float(loss) for loss, _, _ in alone), rel=1e-5)
    chosen = [predictions[references >= 0].tolist() for _, predictions, references in alone]
    assert together[1][together[2] >= 0].tolist() == [p for line in chosen for p in line]
