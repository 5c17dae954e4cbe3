"""How the selection kernels of the Triton backend work: passes, tiles, buffers and variants; see test_triton.py."""

import pytest
import torch
from drawn import given, settings, st
from test_triton import (
    DEVICE,
    INSTALLED,
    INTERPRETED,
    ONCE,
    _small_tiles,  # noqa: F401
    changed,
    expected,
    needs_interpreter,
    problem,
    run_in_interpreter,
    runs_kernels,
    selected,
)
from torch.utils._python_dispatch import TorchDispatchMode

from hf_semfocus.attention.visibility import Visibility

interpreted = pytest.mark.skipif(not INTERPRETED, reason="replaces parts of kernels")


@needs_interpreter
def test_the_selection_in_the_interpreter():
    run_in_interpreter(__file__, "not slow")


def whole(at, query, key):
    """``at`` with small integers, whose scores are exact in every order of summation."""
    return changed(at, query=query.round().expand_as(at.query), key=key.round().expand_as(at.key))


@pytest.fixture
def exact_rows(monkeypatch):
    """How many rows of every call took the exact path."""
    from hf_semfocus.backends.lists.triton import selection

    taken, launch = [], selection.recollect

    class Launcher:
        def __getitem__(self, grid):
            def run(*args, **options):
                counts, capacity = args[-2:]
                taken.append(int((counts > capacity).sum()))
                return launch[grid](*args, **options)

            return run

    monkeypatch.setattr(selection, "recollect", Launcher())
    return taken


@pytest.fixture
def tiles(monkeypatch):
    """``(pass, whether it reads the mask)`` of every tile of scores."""
    from hf_semfocus.backends.lists.triton import candidates, exact

    made = []
    for name, module in (("candidates", candidates), ("exact", exact)):
        original = module.score_tile

        def score_tile(*args, name=name, original=original):
            made.append((name, args[-4]))
            return original(*args)

        monkeypatch.setattr(module, "score_tile", score_tile)
    return made


@interpreted
@pytest.mark.parametrize("period", [16, 48])
def test_keys_that_nearly_repeat_have_few_candidates(period, exact_rows):
    """A period that divides the number of groups (16), or is a multiple, must not put the best keys in one group."""
    torch.manual_seed(period)
    at = problem(batch=1, heads=1, queries=32, keys=768, dim=8)
    base = (torch.randn(1, 1, period, 8) * 50).repeat(1, 1, 768 // period, 1)
    at = whole(at, torch.randn(32, 8) * 20, base + torch.randn(1, 1, 768, 8) * 3)
    assert torch.equal(selected(at, 4), expected(at, 4))
    assert exact_rows == [0]


ADVERSARIAL = {
    "ascending": lambda n: torch.arange(n),
    "descending": lambda n: -torch.arange(n),
    "constant": lambda n: torch.ones(n),
    "periodic": lambda n: torch.arange(n) % 16,
    "two_values": lambda n: torch.arange(n) // 7 % 2,
    "one_hub": lambda n: torch.eye(n)[5] * 100,
    "late_block": lambda n: (torch.arange(n) > n - 30) * 50 + torch.arange(n) % 3,
    "nan": lambda n: torch.where(torch.arange(n) % 5 == 1, torch.nan, torch.arange(n) % 4),
    "infinite": lambda n: torch.where(torch.arange(n) % 11 == 3, torch.inf, torch.arange(n) % 4),
}


@interpreted
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_scores(name):
    at = problem(batch=1, heads=1, queries=30, keys=100, dim=1, causal=True, scale=1.0)
    key = ADVERSARIAL[name](100).float().view(1, 1, -1, 1)
    at = changed(at, query=torch.ones_like(at.query), key=key)
    if name == "nan":
        # NaN is the highest score, of several any
        seen = at.allowed
        found, bad = selected(at, 6), seen & key.isnan().view(1, 1, 1, -1)
        assert torch.equal((found & bad).sum(-1), bad.sum(-1).clamp(max=6))
        assert torch.equal(found.sum(-1), seen.sum(-1).clamp(max=6))
    else:
        assert torch.equal(selected(at, 6), expected(at, 6))


@interpreted
@settings(max_examples=8)
@given(
    scores=st.lists(st.integers(0, 3), min_size=20, max_size=90),
    queries=st.integers(1, 20),
    k=st.integers(1, 20),
    causal=st.booleans(),
    hidden=st.sets(st.integers(0, 89)),
)
def test_the_exact_path_alone_selects_what_the_definition_does(scores, queries, k, causal, hidden):
    """Every row is sent through it."""
    from hf_semfocus.backends.lists.triton import candidates

    keys = len(scores)
    mask = torch.tensor([column not in hidden for column in range(keys)]).view(1, 1, 1, -1)
    at = problem(1, 1, 1, queries, keys, dim=1, causal=causal, mask=mask, scale=1.0)
    at = changed(at, query=torch.ones_like(at.query), key=torch.tensor(scores).float().view(1, 1, -1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "bound", lambda best, k: candidates.tl.full([32], 1e30, candidates.tl.float32))
        assert torch.equal(selected(at, k), expected(at, k))


@interpreted
def test_the_exact_path_computes_every_score_once(tiles, exact_rows):
    at = problem(batch=1, heads=1, queries=32, keys=160, dim=4)
    at = whole(at, torch.ones(32, 4), torch.ones(160, 4))
    assert torch.equal(selected(at, 5), expected(at, 5))
    assert exact_rows == [32]
    assert tiles == 2 * 10 * [("candidates", False)] + 10 * [("exact", False)]


@interpreted
def test_pairs_are_merged_by_the_sorts_of_triton(monkeypatch):
    from hf_semfocus.backends.lists.triton import common, selection

    monkeypatch.undo()
    monkeypatch.setattr(selection, "tile_for", lambda *sizes: selection.Tile(16, 16, 16, 4, 2))
    monkeypatch.setattr(selection, "exact_tile_for", lambda *sizes: selection.Tile(16, 16, 16, 4, 1))
    monkeypatch.setattr(common, "TILE_ELEMENTS", 1 << 16)
    at = problem(batch=1, heads=1, queries=2, keys=40, dim=4)
    at = whole(at, torch.ones(2, 4), (torch.arange(40) % 3).float().view(-1, 1).expand(-1, 4))
    assert torch.equal(selected(at, 9), expected(at, 9))


def padded_pairs(left, right, n):
    """Causality and padding in a mask of pairs: bool ``[2, 1, n, n]``, the second sequence without padding."""
    real = torch.ones(2, n, dtype=torch.bool)
    real[0, :left] = False
    real[0, n - right :] = False
    return real[:, None, None] & torch.ones(n, n, dtype=torch.bool).tril()


@interpreted
@pytest.mark.parametrize("form", ["keys", "pairs", "pairs_without_column"])
def test_padding_costs_no_tiles_and_no_reads_of_the_mask(form, tiles):
    n = 64
    mask = padded_pairs(20, 20, n)
    seen = {
        "keys": lambda: Visibility.between(n, n, DEVICE, mask[:, :, -1:], causal=True),
        "pairs": lambda: Visibility.between(n, n, DEVICE, mask, causal=True),
        "pairs_without_column": lambda: Visibility(mask, None, False, n, DEVICE),
    }[form]()
    at = changed(problem(batch=2, heads=1, queries=n, dim=16), visibility=seen)
    with torch.no_grad():
        at.query.copy_((at.query * 20).round())
        at.key.copy_((at.key * 20).round())
    assert torch.equal(selected(at, 5), expected(at, 5))
    needed = 0
    for real in mask:
        for first in range(0, n, 32):
            columns = real[0, first : first + 32].any(0).nonzero().flatten().tolist()
            needed += columns[-1] // 16 - columns[0] // 16 + 1 if columns else 0
    assert tiles == 2 * needed * [("candidates", False)]


@interpreted
def test_only_queries_with_holes_read_the_mask(tiles):
    mask = padded_pairs(10, 0, 96)
    mask[1, :, 80:, 50] = False
    at = changed(problem(batch=2, heads=1, queries=96, dim=16), visibility=Visibility(mask, None, False, 96, DEVICE))
    with torch.no_grad():
        at.query.copy_((at.query * 20).round())
        at.key.copy_((at.key * 20).round())
    assert torch.equal(selected(at, 5), expected(at, 5))
    # the last 32 queries of the second sequence
    assert sum(reads for _, reads in tiles) == 2 * 6


@runs_kernels
@settings(max_examples=20)
@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=6))
def test_spans_of_masks(rows):
    from hf_semfocus.backends.lists.triton.spans import spans_of

    mask = torch.tensor(rows, device=DEVICE).view(-1, 1, 1, 7)
    for row, found in zip(rows, spans_of(mask).view(-1, 3).tolist(), strict=True):
        columns = [column for column, seen in enumerate(row) if seen]
        assert found == ([columns[0], columns[-1] + 1, len(columns)] if columns else [7, 0, 0])


@runs_kernels
@settings(max_examples=25)
@given(
    queries=st.integers(1, 40),
    keys=st.integers(1, 70),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    k=st.integers(1, 24),
    sign=st.sampled_from([1, -1]),
    causal=st.booleans(),
    masked=st.sampled_from(["none", "keys", "pairs"]),
    spread=st.integers(0, 2),
    seed=st.integers(0, 10_000),
)
def test_selects_exactly_what_the_definition_does(queries, keys, heads, k, sign, causal, masked, spread, seed):
    """Small integers make many exact ties, all of which the later keys win; without spread all scores are equal."""
    torch.manual_seed(seed)
    shape = {"none": None, "keys": (1, 1, 1, keys), "pairs": (1, heads[0], queries, keys)}[masked]
    mask = None if shape is None else torch.rand(shape) < 0.7
    at = problem(1, *heads, queries, keys, dim=3, causal=causal, mask=mask, scale=0.5)
    whole = [torch.randint(-spread, spread + 1, t.shape, device=DEVICE).to(t.dtype) for t in (at.query, at.key)]
    at = changed(at, query=whole[0], key=whole[1])
    assert torch.equal(selected(at, k, sign), expected(at, k, sign))


@runs_kernels
def test_candidates_beyond_the_buffer():
    """All the highest scores in one group of columns, so that the groups' maxima bound them badly."""
    at = problem(batch=1, heads=1, queries=20, keys=600, dim=16, causal=True)
    with torch.no_grad():
        at.key[:, :, ::128] += at.query.mean(2, keepdim=True) * 100
        at.key[:, :, ::16] += at.query.mean(2, keepdim=True) * 50
        at.query.copy_(at.query.round())
        at.key.copy_(at.key.round())
    assert torch.equal(selected(at, 12), expected(at, 12))


@interpreted
def test_a_bound_that_other_rounding_makes_too_high_loses_no_candidate(monkeypatch):
    """Scores of the pass that bounds may be larger than those of the pass that marks."""
    from hf_semfocus.backends.lists.triton import candidates

    original = candidates.bound
    monkeypatch.setattr(candidates, "bound", lambda *given: original(*given) + 0.5)
    at = problem(batch=1, queries=30, keys=60, dim=16, causal=True)
    with torch.no_grad():
        at.query.copy_((at.query * 20).round())
        at.key.copy_((at.key * 20).round())
    assert torch.equal(selected(at, 5), expected(at, 5))


@runs_kernels
def test_candidates_among_many_keys():
    """More than 32 tiles of keys, whose marks need more than one word."""
    at = problem(batch=1, queries=10, keys=560, dim=16, causal=True)
    with torch.no_grad():
        at.query.copy_((at.query * 20).round())
        at.key.copy_((at.key * 20).round())
    assert torch.equal(selected(at, 5), expected(at, 5))


@runs_kernels
def test_heads_are_worked_on_a_few_at_a_time(monkeypatch):
    from hf_semfocus.backends.lists.triton import selection

    at = problem(causal=True)
    whole = selected(at, 6)
    # three of the four heads, then the last; two tiles of 32 x 16 marks, and per query 16 candidates and scores
    monkeypatch.setattr(selection, "BUFFER_WORDS", 3 * (2 * 32 * 16 + 37 * 32))
    assert torch.equal(selected(at, 6), whole)
    assert torch.equal(whole, expected(at, 6))


class Allocated(TorchDispatchMode):
    """Adds up the bytes of new tensors."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if "empty" in func.__name__:
            self.bytes += out.numel() * out.element_size()
        return out


class Recorder:
    """In place of a kernel: notes the arguments."""

    def __init__(self, kernel, calls):
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid):
        return lambda *args, **options: self.calls.append((self.kernel, args, options))


@pytest.fixture
def calls(monkeypatch):
    """All launches, of which none takes place."""
    from hf_semfocus.backends.lists.triton import selection

    monkeypatch.undo()
    made = []
    for name in ("collect", "recollect", "score_candidates", "choose"):
        monkeypatch.setattr(selection, name, Recorder(getattr(selection, name), made))
    monkeypatch.setitem(problem.__globals__, "DEVICE", "meta")
    return made


@pytest.mark.skipif(not INSTALLED or INTERPRETED, reason=ONCE)
@pytest.mark.parametrize(("heads", "k"), [(1, 8), (12, 8), (1, 64), (12, 200)])
def test_buffers_do_not_grow_with_the_square_of_the_length(heads, k, calls):
    from hf_semfocus.backends.lists.triton import selection

    n = 1 << 16
    at = problem(batch=1, heads=heads, queries=n, dtype=torch.bfloat16, dim=64, causal=True)
    with Allocated() as allocated:
        index = selection.select(at, k, 1)
    extra = allocated.bytes - index.numel() * 4
    assert 0 < extra <= max(4 * selection.BUFFER_WORDS + 4 * n * heads, 4 * n * (8 * k + 512))


@pytest.mark.skipif(not INSTALLED or INTERPRETED, reason=ONCE)
def test_few_variants_are_compiled_for_all_k_and_both_ends(calls):
    """What Triton compiles anew for: constants, and integers that are 1 or divisible by 16, unless told otherwise."""
    from hf_semfocus.backends.lists.triton import selection

    at = problem(batch=2, heads=3, kv_heads=3, queries=100, dtype=torch.float16, dim=64, causal=True)
    for k in range(1, 65):
        for sign in (1, -1):
            selection.select(at, k, sign)
    variants = {}
    for kernel, args, options in calls:
        given = dict(zip([p.name for p in kernel.params], args, strict=False)) | options
        fixed = {p.name for p in kernel.params if p.is_constexpr}
        free = {p.name for p in kernel.params if p.do_not_specialize}
        key = tuple(
            (name, value if name in fixed or name not in kernel.arg_names else (value == 1, value % 16 == 0))
            for name, value in given.items()
            if isinstance(value, int) and name not in free
        )
        variants.setdefault(kernel.__name__, set()).add(key)
    assert {name: len(found) for name, found in variants.items()} == {
        **{"collect": 1, "recollect": 1},
        # by how many candidates fit: 16, 32, 64, 128
        **{"score_candidates": 4, "choose": 4},
    }
