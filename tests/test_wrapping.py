"""Methods of other libraries are wrapped once, and late where importing the library would be a burden."""

import importlib
import sys

import pytest

from hf_semfocus.hf.wrapping import when_imported, wrap


class Base:
    def plain(self, x):
        return x

    @classmethod
    def of_class(cls, x):
        return cls, x


def test_a_wrapped_method_stays_what_it_was_and_is_wrapped_once():
    class Wrapped(Base):
        pass

    for _ in range(2):
        wrap(Wrapped, "plain", lambda original, self, x: original(self, x) + 1)
        wrap(Wrapped, "of_class", lambda original, cls, x: (*original(cls, x), "seen"))
    assert Wrapped().plain(1) == 2
    assert Wrapped.of_class(3) == (Wrapped, 3, "seen")
    assert Base().plain(1) == 1
    assert Base.of_class(3) == (Base, 3)
    assert Wrapped.plain.__name__ == "plain"


@pytest.fixture
def late(tmp_path, monkeypatch):
    (tmp_path / "late_module.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield "late_module"
    sys.meta_path[:] = finders
    sys.modules.pop("late_module", None)


def test_a_module_that_is_imported_later_is_seen_once_it_is_complete(late):
    seen = []
    for _ in range(2):
        when_imported(late, lambda: seen.append(sys.modules[late].value))
    assert importlib.util.find_spec(late) is not None  # looking for it is not importing it
    assert seen == []
    importlib.import_module(late)
    importlib.import_module(late)
    assert seen == [1]
    when_imported(late, lambda: seen.append("at once"))
    assert seen == [1, "at once"]


def test_a_module_that_is_not_there_stays_so():
    when_imported("hf_semfocus_has_no_such_module", lambda: None)
    try:
        assert importlib.util.find_spec("hf_semfocus_has_no_such_module") is None
    finally:
        sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "name", "") != "hf_semfocus_has_no_such_module"]
