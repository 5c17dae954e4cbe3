"""Thousands of random problems on every backend of the CPU against the definition; see :mod:`fuzz`."""

import collections

import fuzz
import pytest

from hf_semfocus.backends import eager
from hf_semfocus.backends.lists.native import build


def some(seed):
    """Backends of a seed: of those that hardly differ, one at a time."""
    return ["eager", "native", "gather" if seed % 2 else "chunked", *(["auto"] if seed % 3 == 0 else [])]


def run(seeds, backends):
    counts = collections.Counter()
    for seed in seeds:
        fuzz.check(fuzz.make(seed), counts, backends(seed))
    return counts


@pytest.mark.parametrize("first", range(0, 2000, 200))
def test_every_back_end_computes_the_definition(first):
    counts = run(range(first, first + 200), some)
    assert counts["eager"] == 200
    assert counts["chunked"] == 100
    assert counts["gather"] > 50
    assert counts["native"] > 90 or isinstance(build.load(), str)
    assert counts["auto"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 30_000, 1000))
def test_twenty_thousand_more(first):
    run(range(first, first + 1000), lambda seed: (*fuzz.CPU, "auto"))


def test_a_wrong_result_shows_with_what_is_needed_to_see_it_again(monkeypatch):
    original = eager.attend
    monkeypatch.setattr(eager, "attend", lambda *args: (original(*args)[0] * (1 + 1e-4), None))
    case = next(case for seed in range(99) if "half" not in (case := fuzz.make(seed)).words)
    said = rf"eager: output differs .* seed {case.seed}: .*run again with: python tests/fuzz.py {case.seed}"
    with pytest.raises(fuzz.MismatchError, match=said):
        fuzz.check(case, collections.Counter(), ["eager"])


def test_cases_are_of_every_kind():
    cases = [fuzz.make(seed) for seed in range(400)]
    words = collections.Counter(word for case in cases for word in case.words)
    kinds = {"one query", "more queries than keys", "half", "any numbers", "repeated keys", "per head", "empty rows"}
    kinds |= {"pairs", "padding", "bias", "bias and mask", "unseen not numbers", "softcap", "sinks", *fuzz.LAYOUTS}
    assert kinds == words.keys()
    assert min(words.values()) >= 5
    assert {fuzz.mechanisms.base_name(case.spec) for case in cases} == set(fuzz.NAMES)
