"""Where the compiled kernels lie and what is loaded from there: damage, strangers, compilers that hang."""

import os
import shutil
import stat
import subprocess
import threading
import time
import warnings
from pathlib import Path

import pytest

from hf_semfocus.backends.lists.native import build, cache

pytestmark = pytest.mark.skipif(os.name != "posix" or shutil.which("g++") is None, reason="no g++")

TINY = 'extern "C" { int select_keys() { return 7; } void forward() {} void backward() {} }\n'


@pytest.fixture
def home(monkeypatch, tmp_path):
    """The cache of a user whose kernels are three empty functions; the other folder is ``tmp_path / "tmp"``."""
    source = tmp_path / "tiny.cpp"
    source.write_text(TINY)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setattr(build, "FLAGS", ("-fPIC", "-shared"))
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "g++")
    return tmp_path / "cache" / "hf_semfocus"


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return str(path)


def load():
    """The path of the library that is loaded, after a call of it."""
    library = build._load()
    assert library.select_keys() == 7
    return Path(library._name)


def test_compiled_once_and_found_again(home, monkeypatch):
    name = load()
    assert os.listdir(home) == [name.name]
    assert stat.S_IMODE(home.stat().st_mode) == stat.S_IMODE(name.stat().st_mode) == 0o700
    monkeypatch.setattr(build, "_compile", None)
    assert load() == name


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-1] + b"x"])
def test_a_damaged_library_is_built_again(home, damage):
    name = load()
    whole = name.read_bytes()
    name.unlink()  # a new file, for the old one is loaded
    name.write_bytes(damage(whole))
    assert load() == name
    assert name.read_bytes() == whole


def test_a_library_that_others_may_write_to_is_built_again(home):
    name = load()
    name.chmod(0o777)
    assert load() == name
    assert stat.S_IMODE(name.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_nothing_is_loaded_from_a_folder_others_may_write_to(home, tmp_path, mode):
    name = load()
    home.chmod(mode)
    before = os.listdir(home)
    other = load()
    assert other == tmp_path / "tmp" / f"hf_semfocus-{os.geteuid()}" / name.name
    assert os.listdir(home) == before


def test_nothing_is_loaded_from_a_folder_of_another_user(home, monkeypatch):
    load()
    user = os.geteuid()
    monkeypatch.setattr(cache.os, "geteuid", lambda: user + 1)
    with pytest.raises(build.MissingError, match=rf"hf_semfocus belongs to user {user}; expected {user + 1}"):
        build._load()


def test_a_link_in_place_of_the_folder_is_not_followed(home, tmp_path):
    load()
    home.rename(tmp_path / "elsewhere")
    home.symlink_to(tmp_path / "elsewhere")
    assert load().is_relative_to(tmp_path / "tmp")


def test_a_relative_cache_home_is_ignored(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert load().is_relative_to(tmp_path / "me" / ".cache" / "hf_semfocus")
    assert not (tmp_path / "relative").exists()
    monkeypatch.setenv("HOME", "relative")
    assert load().is_relative_to(tmp_path / "tmp")


def test_a_cache_that_cannot_be_written_to_is_replaced(home, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert load().is_relative_to(tmp_path / "tmp")
    shutil.rmtree(tmp_path / "tmp")
    (tmp_path / "tmp").write_text("in the way")
    with pytest.raises(build.MissingError, match=r"Not a directory.*cache.*Not a directory.*tmp.*XDG_CACHE_HOME"):
        build._load()


def test_a_compiler_that_hangs_is_ended_with_all_it_started(home, tmp_path, monkeypatch):
    pid, communicate = tmp_path / "pid", subprocess.Popen.communicate
    started = f"sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"
    monkeypatch.setenv("CXX", program(tmp_path / "cxx", f'[ "$1" = --version ] && exit 0\n{started}\n'))

    def until_it_hangs(process, timeout):
        if "--version" in process.args:
            return communicate(process, timeout=timeout)
        while not pid.exists():
            time.sleep(0.01)
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", until_it_hangs)
    with pytest.raises(build.MissingError, match=r"failed to compile the kernels: no end within 300 seconds"):
        build._load()
    status = Path(f"/proc/{pid.read_text().strip()}/stat")
    for _ in range(100):  # killed already, but not yet gone
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] in "ZX":
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the compiler started goes on")
    assert not os.listdir(home)


def test_options_in_cxx_count(home, monkeypatch):
    plain = load()
    monkeypatch.setenv("CXX", "g++ -O1 '-DNAME=a b'")
    assert load() != plain
    assert len(os.listdir(home)) == 2
    monkeypatch.setenv("CXX", "g++ 'unfinished")
    with pytest.raises(build.MissingError, match=r"CXX=.*cannot be read: No closing quotation"):
        build._load()


def test_leftovers_of_interrupted_builds_are_removed(home):
    for name, age in (("building-old", 7200), ("building-new", 60)):
        (home / name).mkdir(parents=True, mode=0o700)
        (home / name / "kernels.so").write_bytes(b"half")
        os.utime(home / name, (time.time() - age,) * 2)
    home.chmod(0o700)
    load()
    assert [name for name in os.listdir(home) if name.startswith("building")] == ["building-new"]


def test_many_may_build_at_once(home, monkeypatch):
    names, together, compile_it = [], threading.Barrier(4), build._compile

    def slowly(*args):
        compile_it(*args)
        together.wait(60)

    monkeypatch.setattr(build, "_compile", slowly)
    threads = [threading.Thread(target=lambda: names.append(load())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 4
    assert sorted({name.name for name in names}) == os.listdir(home)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("__attribute__((constructor)) static void f() { __builtin_trap(); }", r"cannot be loaded: .*status -\d+"),
        ("void lonely() {}", "cannot be loaded: .*select_keys"),
        ("no C++", "failed to compile the kernels: .*error"),
    ],
)
def test_a_library_that_does_not_load_takes_nobody_down(home, tmp_path, source, words):
    build.SOURCE.write_text(source)
    with pytest.raises(build.MissingError, match=words):
        build._load()
    assert not os.listdir(home)


def test_a_compiler_that_writes_something_else_is_reported(home, tmp_path, monkeypatch):
    writes = 'while [ $# -gt 1 ]; do shift; done\n[ "$1" = --version ] || echo nonsense > "$1"\n'
    monkeypatch.setenv("CXX", program(tmp_path / "cxx", writes))
    with pytest.raises(build.MissingError, match=r"cxx has compiled cannot be loaded: .*CXX names another"):
        build._load()


def test_what_is_missing_is_warned_of_once_with_the_cure(home, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.load.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"without the compiled kernels.*no-such-compiler.*apt install g\+\+"):
            reason = build.load()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert build.load() == reason
    finally:
        build.load.cache_clear()
