"""The Triton backend: natively where there is a GPU, else in Triton's interpreter, and compiled ahead of time.

Triton decides when it is first imported whether kernels are interpreted. So, whatever other test modules import
before, the interpreter gets processes of its own (:func:`run_in_interpreter`), and this one never sees
the environment variable that would make the backend accept tensors on the CPU.
"""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.backends.registry import lookup_backend

import hf_semfocus
from hf_semfocus import backends, mechanisms
from hf_semfocus.attention.problem import Problem
from hf_semfocus.attention.selection import highest
from hf_semfocus.attention.visibility import Visibility
from hf_semfocus.backends import BACKENDS, eager

HERE = Path(__file__).parent
backend = BACKENDS["triton"]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
INSTALLED = importlib.util.find_spec("triton") is not None
RUNS = INSTALLED and (INTERPRETED or torch.cuda.is_available())
DEVICE = "cpu" if INTERPRETED else "cuda"
HALVES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]

ONCE = "done by the process that is not interpreted"

needs_interpreter = pytest.mark.skipif(RUNS or not INSTALLED, reason="kernels run in this process, or nowhere")
needs_triton = pytest.mark.skipif(not INSTALLED, reason="triton is not installed (it has no wheels for this system)")


def runs_kernels(test):
    """Collect a test only in a process in which kernels can run."""
    return test if RUNS else None


def _sorted(tensor, descending=False):
    """``tl.sort`` of the interpreter's tensors."""
    from triton.language import core
    from triton.runtime.interpreter import TensorHandle

    data = np.sort(tensor.handle.data)
    data = np.ascontiguousarray(data[..., ::-1]) if descending else data
    return core.tensor(TensorHandle(data, tensor.handle.dtype), tensor.type)


def _sort_quickly(monkeypatch):
    """Replace Triton's sorts, for each of which the interpreter takes seconds."""
    from triton import language

    for name in ("sort", "bitonic_merge"):
        monkeypatch.setattr(language, name, _sorted)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Tiles so small that few keys fill many, and so few programs that the interpreter is quick."""
    if INTERPRETED:
        from hf_semfocus.backends.lists.triton import common, selection

        monkeypatch.setattr(selection, "tile_for", lambda *sizes: selection.Tile(32, 16, 16, 4, 2))
        exact_tile = lambda k, *sizes: selection.Tile(32, common.padded(k), 16, 4, 1)  # noqa: E731
        monkeypatch.setattr(selection, "exact_tile_for", exact_tile)
        _sort_quickly(monkeypatch)
        monkeypatch.setattr(common, "TILE_ELEMENTS", 1 << 16)
        monkeypatch.setattr(common, "ROW_ELEMENTS", 1 << 14)


def problem(
    batch=2,
    heads=2,
    kv_heads=1,
    queries=37,
    keys=None,
    dim=24,
    value_dim=None,
    dtype=torch.float32,
    causal=False,
    mask=None,
    **options,
):
    """A random problem as :func:`hf_semfocus.sparse_attention` makes it."""
    keys = keys or queries

    def tensor(heads, length, dim):
        return torch.randn(batch, heads, length, dim, dtype=dtype, device=DEVICE, requires_grad=True)

    return Problem(
        query=tensor(heads, queries, dim),
        key=tensor(kv_heads, keys, dim),
        value=tensor(kv_heads, keys, value_dim or dim),
        visibility=Visibility.between(queries, keys, DEVICE, None if mask is None else mask.to(DEVICE), causal),
        **{"scale": dim**-0.5, **options},
    )


def changed(like, **changes):
    return Problem(**{**{name: getattr(like, name) for name in Problem.__dataclass_fields__}, **changes})


def leaves(at):
    return [t for t in (at.query, at.key, at.value, at.sinks) if t is not None]


def results(attend, mechanism, at, grad, dtype=None):
    """Output and gradients of one backend, at the precision ``dtype``."""
    if dtype is not None:
        names = [name for name in ("query", "key", "value", "sinks") if getattr(at, name) is not None]
        at = changed(at, **{name: getattr(at, name).detach().to(dtype).requires_grad_() for name in names})
    output, _ = attend(mechanism, at)
    output = output.to(at.value.dtype)
    return [output, *torch.autograd.grad(output, leaves(at), grad.to(output.dtype))]


def check(mechanism, at):
    """Output and gradients are at most four times as far from float64's as those of the eager backend."""
    grad = torch.randn(*at.query.shape[:3], at.value.shape[-1], device=DEVICE).to(at.value.dtype)
    true = results(eager.attend, mechanism, at, grad, torch.float64)
    rivals = results(eager.attend, mechanism, at, grad)
    for ours, rival, exact in zip(results(backend.attend, mechanism, at, grad), rivals, true, strict=True):
        assert ours.dtype == rival.dtype
        floor = 8 * torch.finfo(torch.float32).eps * exact.abs().max()
        bound = 4 * (rival - exact).abs().max() + floor
        assert (ours - exact).abs().max() <= bound
    return true


def selected(at, k, sign=1):
    """The keys the kernels select, as bool ``[batch, heads, queries, keys]``."""
    from hf_semfocus.backends.lists.triton import selection

    with torch.no_grad():
        index = selection.select(at, min(k, at.key.shape[2]), sign).long()
    present = index >= 0
    # one column more takes what is absent
    kept = torch.zeros(*index.shape[:3], at.key.shape[2] + 1, dtype=torch.int64, device=DEVICE)
    kept.scatter_add_(-1, index.masked_fill(~present, at.key.shape[2]), present.long())
    assert kept.max() <= 1
    return kept[..., :-1].bool()


def expected(at, k, sign=1):
    with torch.no_grad():
        return highest(sign * at.scores().double(), at.allowed, k).expand(at.shape)


def padding(side, queries, keys):
    real = torch.ones(2, 1, 1, keys, dtype=torch.bool)
    real[0, ..., :5], real[1, ..., :9] = False, False
    return real if side == "left" else real.flip(-1)


def some(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6


CASES = {
    "bidirectional": {},
    "grouped_heads": {"heads": 6, "kv_heads": 2, "queries": 19},
    "causal": {"causal": True},
    "one_head": {"batch": 1, "heads": 1, "kv_heads": 1, "queries": 5, "dim": 32},
    "decoding": {"causal": True, "queries": 3, "keys": 41},
    "more_queries_than_keys": {"causal": True, "queries": 20, "keys": 11},
    "value_dim": {"dim": 40, "value_dim": 17, "queries": 21},
    "padding_left": {"mask": padding("left", 37, 37), "causal": True},
    "padding_right": {"mask": padding("right", 37, 37)},
    "mask_per_pair": {"mask": some(2, 1, 29, 29), "queries": 29},
    "mask_per_head": {"mask": some(2, 1, 29), "queries": 29},
}


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_output_and_gradients_cost_no_more_than_rounding(name, dtype, poisoned_memory):
    check(mechanisms.build("topk_sparse:k=7"), problem(dtype=dtype, **CASES[name]))


@runs_kernels
@pytest.mark.parametrize("k", [1, 5, 20, 1000])
@pytest.mark.parametrize("name", ["topk_sparse", "bottomk_sparse"])
def test_both_ends_and_any_number_of_keys(name, k, poisoned_memory):
    for scale in (0.3, -0.3):
        check(mechanisms.build(name, k=k), problem(batch=1, causal=True, queries=23, scale=scale))


@runs_kernels
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_entries_are_gathered_a_few_at_a_time(dropout_p, monkeypatch):
    from hf_semfocus.backends.lists.triton import common

    sinks = torch.zeros(2, device=DEVICE, requires_grad=True)
    at = problem(batch=1, queries=5, keys=20, dropout_p=dropout_p, sinks=sinks)
    mechanism, grad = mechanisms.build("topk_sparse:k=13"), torch.randn(1, 2, 5, 24, device=DEVICE)
    found = []
    for elements in (1 << 16, 4 * 32):
        monkeypatch.setattr(common, "TILE_ELEMENTS", elements)
        torch.manual_seed(5)
        out, _ = backend.attend(mechanism, at)
        found.append([out, *torch.autograd.grad(out, leaves(at), grad)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


@runs_kernels
def test_a_row_without_keys_gives_zeros_and_finite_gradients(poisoned_memory):
    mask = torch.ones(2, 1, 19, 19, dtype=torch.bool)
    mask[0, :, :3] = False
    mask[1] = False
    at = problem(queries=19, mask=mask)
    out, _ = backend.attend(mechanisms.build("topk_sparse:k=4"), at)
    assert (out[1] == 0).all()
    assert (out[0, :, :3] == 0).all()
    out.square().sum().backward()
    for t in leaves(at):
        assert t.grad.isfinite().all()
        assert (t.grad[1] == 0).all()


@runs_kernels
@pytest.mark.parametrize(("batch", "queries"), [(2, 0), (0, 9)])
def test_no_queries_no_work(batch, queries):
    at = problem(batch=batch, queries=queries, keys=9)
    out, _ = backend.attend(mechanisms.build("topk_sparse"), at)
    assert out.shape == (batch, 2, queries, 24)
    out.sum().backward()
    assert (at.key.grad == 0).all()


@runs_kernels
@pytest.mark.parametrize("bad", [1, 20], ids=["one_key", "most_keys"])
def test_nan_shows_in_every_row_that_sees_it(bad):
    at = problem(batch=1, heads=2, kv_heads=2, queries=27, causal=True)
    with torch.no_grad():
        at.key[:, 1, 4 : 4 + bad] = torch.nan
    for name in ("topk_sparse", "bottomk_sparse"):
        out, _ = backend.attend(mechanisms.build(name, k=3), at)
        rows = out.isnan().any(-1)[0]
        assert (out.isnan().all(-1)[0] == rows).all()
        assert rows[1, 4:].all()
        assert not rows[0].any()
        assert not rows[:, :4].any()


@runs_kernels
def test_nan_outside_the_mask_does_not_matter():
    mask = padding("right", 37, 37)
    at = problem(causal=True, mask=mask)
    mechanism = mechanisms.build("topk_sparse:k=5")
    clean, _ = backend.attend(mechanism, at)
    dirty = at.key.detach().masked_fill(~mask.to(DEVICE).transpose(-1, -2), torch.nan)
    out, _ = backend.attend(mechanism, changed(at, key=dirty))
    assert torch.equal(out, clean)


@runs_kernels
def test_a_sink_of_minus_infinity_and_a_row_without_keys_have_finite_gradients(poisoned_memory):
    mask = torch.ones(2, 1, 9, 9, dtype=torch.bool)
    mask[0, :, :3] = False
    sinks = torch.tensor([0.5, -torch.inf], device=DEVICE, requires_grad=True)
    check(mechanisms.build("topk_sparse:k=5"), problem(queries=9, dim=8, mask=mask, sinks=sinks))


@runs_kernels
def test_sinks_take_part_in_the_softmax():
    sinks = torch.tensor([0.5, -1.0, -torch.inf], device=DEVICE, requires_grad=True)
    check(mechanisms.build("topk_sparse:k=5"), problem(heads=3, causal=True, sinks=sinks))


@runs_kernels
def test_dropout_drops_the_same_weights_in_backward():
    mechanism, p = mechanisms.build("topk_sparse:k=6"), 0.4
    at = problem(batch=1, heads=2, kv_heads=2, queries=40)
    # values that are unit vectors show the weights
    weights, _ = backend.attend(mechanism, changed(at, value=torch.eye(40, device=DEVICE).expand(1, 2, -1, -1)))
    torch.manual_seed(3)
    dropped, _ = backend.attend(
        mechanism, changed(at, value=torch.eye(40, device=DEVICE).expand(1, 2, -1, -1), dropout_p=p)
    )
    factor = torch.where(dropped != 0, 1 / (1 - p), 0.0).detach()
    torch.testing.assert_close(dropped, weights * factor)
    kept, total = int((dropped != 0).sum()), int((weights != 0).sum())
    assert abs(kept - total * (1 - p)) < 5 * (total * p * (1 - p)) ** 0.5

    torch.manual_seed(3)
    out, _ = backend.attend(mechanism, changed(at, dropout_p=p))
    grad = torch.randn_like(out)
    ours = [out, *torch.autograd.grad(out, leaves(at), grad)]
    scores = at.scores()
    keep = mechanism.keep(scores, at.allowed, None)
    explicit = (mechanism.normalize(scores, keep) * factor) @ at.value
    for a, b in zip(ours, [explicit, *torch.autograd.grad(explicit, leaves(at), grad)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.manual_seed(4)
    other, _ = backend.attend(mechanism, changed(at, dropout_p=p))
    assert not torch.equal(other, out)


def steps_of_programs(key_gradients, call, monkeypatch):
    """The most steps over entries that a program of each launch of ``_gather`` takes, in the interpreter."""
    launches, steps, place, run = 0, {}, key_gradients.place, key_gradients._gather.run

    def launched(*given, **options):
        nonlocal launches
        launches += 1
        return run(*given, **options)

    def counted(*given):
        program = (launches, int(key_gradients.tl.program_id(0).handle.data.item()))
        steps[program] = steps.get(program, 0) + 1
        return place(*given)

    monkeypatch.setattr(key_gradients._gather, "run", launched)
    monkeypatch.setattr(key_gradients, "place", counted)
    call()
    return {
        number: max(count for (launch, _), count in steps.items() if launch == number)
        for number in range(1, launches + 1)
    }


@runs_kernels
def test_many_queries_that_keep_one_key_share_the_work_on_its_gradient(monkeypatch):
    """A hub key, kept by every query beside keys of their own, some with empty slots."""
    from hf_semfocus.backends.lists.triton import function, key_gradients

    monkeypatch.setattr(key_gradients, "CHUNK_STEPS", 2)
    queries, keys, k = 90, 40, 3
    at = problem(2, 2, 1, queries, keys, dim=6, value_dim=5)
    index = torch.randint(-1, keys, (2, 2, queries, k), dtype=torch.int32, device=DEVICE)
    index[..., 1] = 7
    grad = torch.randn(2, 2, queries, 5, device=DEVICE)

    def gradients():
        return torch.autograd.grad(function.attend(at, index), (at.key, at.value), grad)

    ours = gradients()
    assert all(map(torch.equal, ours, gradients()))
    if INTERPRETED:
        assert steps_of_programs(key_gradients, gradients, monkeypatch) == {1: 2, 2: 2}

    exact = [torch.zeros(t.shape, dtype=torch.float64) for t in (at.key, at.value)]
    q, key, value = (t.detach().double().cpu() for t in (at.query, at.key, at.value))
    for b, h, i in itertools.product(range(2), range(2), range(queries)):
        kept = [j for j in index[b, h, i].tolist() if j >= 0]
        up = grad[b, h, i].double().cpu()
        weights = torch.stack([q[b, h, i] @ key[b, 0, j] * at.scale for j in kept]).softmax(0)
        slopes = torch.stack([value[b, 0, j] @ up for j in kept])
        for j, weight, slope in zip(kept, weights, weights * (slopes - weights @ slopes), strict=True):
            exact[0][b, 0, j] += slope * at.scale * q[b, h, i]
            exact[1][b, 0, j] += weight * up
    for found, true in zip(ours, exact, strict=True):
        torch.testing.assert_close(found.double().cpu(), true, rtol=1e-4, atol=1e-4)


@needs_triton
def test_chunks_cover_every_run_once_and_are_of_bounded_size():
    from hf_semfocus.backends.lists.triton import key_gradients

    lengths = [0, 1, 8, 9, 0, 64 << 10, 16, 17, 0]
    begin = torch.tensor([0, *itertools.accumulate(lengths)])
    # the last entries belong to no run
    start, end, more, chunk_start, chunk_end = key_gradients.chunks(begin, int(begin[-1]) + 5, 8)
    assert len(chunk_start) == (int(begin[-1]) + 5) // 8
    for i, (first, last) in enumerate(itertools.pairwise(begin.tolist())):
        parts = [(start[i], end[i]), *((chunk_start[c], chunk_end[c]) for c in range(more[i], more[i + 1]))]
        assert [entry for a, b in parts for entry in range(a, b)] == list(range(first, last))
        assert all(b - a <= 8 for a, b in parts)
    assert (chunk_start[more[-1] :] == chunk_end[more[-1] :]).all()
    assert more[6] - more[5] == (64 << 10) // 8 - 1


@runs_kernels
def test_gradients_are_the_same_every_time():
    at = problem(causal=True, dtype=HALVES[0])
    mechanism = mechanisms.build("topk_sparse:k=7")
    runs = []
    for _ in range(2):
        out, _ = backend.attend(mechanism, at)
        runs.append(torch.autograd.grad(out.sin().sum(), leaves(at)))
    assert all(map(torch.equal, *runs))


@runs_kernels
def test_a_graph_drops_other_weights_whenever_it_runs(monkeypatch):
    """The seed is drawn on the device and read by the kernels, never by the host, which a CUDA graph would freeze."""
    from hf_semfocus.backends.lists.triton import function, operators

    at = problem(1, 2, 2, 12, dim=8, dropout_p=0.5)
    index = torch.arange(12, dtype=torch.int32, device=DEVICE).expand(1, 2, 12, 12).contiguous()
    inputs = (at.query, at.key, at.value, None, index, at.scale, at.dropout_p)

    def attend(query, key, value):
        seed = operators.draw_seed(at)
        return operators.attend(query, key, value, None, index, at.scale, at.dropout_p, seed)[0]

    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    for call in (lambda: compiled(*leaves(at)), lambda: function.attend(at, index)):
        torch.manual_seed(3)
        outputs = [call(), call()]
        assert not torch.equal(*outputs)
        torch.manual_seed(3)
        assert torch.equal(call(), outputs[0])

    for name in ("item", "__int__", "__index__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, lambda *given: pytest.fail("the host read a number"))
    seed = torch.zeros((), dtype=torch.int64, device=DEVICE)
    seen = []
    for number in (0, 1, 0):
        output, _ = operators.attend(*inputs, seed.fill_(number))
        seen.append([output, *torch.autograd.grad(output.sum(), leaves(at))])
    assert not any(map(torch.equal, seen[0], seen[1]))
    assert all(map(torch.equal, seen[0], seen[2]))


STATIC = {
    "banded": ("banded_sparse:window=6", {"causal": True}),
    "strided": ("strided_sparse:window=3,stride=5", {}),
    "block_local_with_global_tokens": ("block_local_sparse:block_size=8,num_global_tokens=2", {}),
    "random": ("random_sparse:k=5", {"causal": True}),
    "threshold": ("threshold_sparse:margin=1.0,max_keys=22", {"causal": True}),
    "top_p": ("topp_sparse:p=0.7,max_keys=22", {}),
}


@runs_kernels
@pytest.mark.parametrize("masked", [False, True], ids=["no_mask", "padding_left"])
@pytest.mark.parametrize("name", STATIC)
def test_lists_of_any_mechanism(name, masked, poisoned_memory):
    """Lists with empty slots, shared by all heads, by all sequences too without a mask."""
    spec, options = STATIC[name]
    mask = padding("left", 23, 23) if masked else None
    sinks = torch.zeros(2, device=DEVICE, requires_grad=True) if masked else None
    at = problem(queries=23, dim=8, mask=mask, sinks=sinks, **options)
    mechanism = mechanisms.build(spec)
    assert backend.LIMITS.objections(mechanism, at) == []
    check(mechanism, at)


@runs_kernels
def test_layout_in_memory_does_not_matter():
    at = problem(causal=True)
    mechanism = mechanisms.build("topk_sparse:k=7")
    plain, _ = backend.attend(mechanism, at)
    grad = torch.randn_like(plain)
    gradients = torch.autograd.grad(plain, leaves(at), grad)
    for a, b in ((1, 2), (2, 3)):
        # the same numbers with two dimensions stored in the other order
        other = changed(
            at,
            **{
                name: getattr(at, name).detach().transpose(a, b).contiguous().transpose(a, b).requires_grad_()
                for name in ("query", "key", "value")
            },
        )
        out, _ = backend.attend(mechanism, other)
        assert torch.equal(out, plain)
        strided = grad.transpose(a, b).contiguous().transpose(a, b)
        for x, y in zip(torch.autograd.grad(out, leaves(other), strided), gradients, strict=True):
            assert torch.equal(x, y)


@runs_kernels
def test_inference_keeps_no_graph_and_inputs_may_lack_gradients():
    at = problem()
    mechanism = mechanisms.build("topk_sparse:k=7")
    with torch.no_grad():
        out, _ = backend.attend(mechanism, at)
    assert not out.requires_grad
    frozen = changed(at, query=at.query.detach(), key=at.key.detach())
    (grad,) = torch.autograd.grad(backend.attend(mechanism, frozen)[0].sum(), frozen.value)
    (same,) = torch.autograd.grad(backend.attend(mechanism, at)[0].sum(), at.value)
    assert torch.equal(grad, same)


@runs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("dim", [32, 64, 96, 128, 256])
def test_the_sizes_chosen_for_gpus(dim, dtype, monkeypatch):
    monkeypatch.undo()
    if INTERPRETED:
        _sort_quickly(monkeypatch)
    for k, keys in ((16, 300), (100, 700), (300, 700)):
        at = problem(1, 2, 1, 40, keys, dim=dim, dtype=dtype, causal=True)
        check(mechanisms.build("topk_sparse", k=k), at)


@runs_kernels
@pytest.mark.parametrize("spec", ["topk_sparse:k=3", "banded_sparse:window=4"])
def test_graphs_keep_the_kernels(spec):
    def attend(query, key, value, mask):
        return hf_semfocus.sparse_attention(
            query, key, value, spec, attn_mask=mask, is_causal=True, enable_gqa=True, backend="triton"
        )

    torch._dynamo.reset()
    graphs = []

    def compiler(graph, inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes if "triton" in str(node.target)})
        return lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(attend, backend=compiler, fullgraph=True)
    for queries in (9, 12, 14):
        query = torch.randn(2, 4, queries, 16, device=DEVICE, requires_grad=True)
        key, value = (torch.randn(2, queries, 2, 16, device=DEVICE).transpose(1, 2).requires_grad_() for _ in "kv")
        mask = torch.rand(2, 1, 1, queries, device=DEVICE) < 0.8
        outputs = [run(query, key, value, mask) for run in (attend, compiled)]
        torch.testing.assert_close(*outputs)
        torch.testing.assert_close(*(torch.autograd.grad(each.sin().sum(), (query, key, value)) for each in outputs))
    wanted = {"hf_semfocus.triton_attend.default"}
    assert graphs == 2 * [wanted | ({"hf_semfocus.triton_select.default"} if "topk" in spec else set())]


@runs_kernels
def test_operators_are_as_they_declare():
    from hf_semfocus.backends.lists.triton import operators

    query, sinks = torch.randn(2, 4, 7, 16, device=DEVICE), torch.randn(4, device=DEVICE, requires_grad=True)
    key, value = torch.randn(2, 2, 2, 9, 16, device=DEVICE).unbind()
    mask = torch.rand(2, 1, 7, 9, device=DEVICE) < 0.7
    selected = (query, key, 3, 0.4, 1, mask, 2)
    torch.library.opcheck(operators.select, selected)
    index, seed = operators.select(*selected), torch.tensor(5, device=DEVICE)
    inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    attended = (*inputs, sinks, index, 0.4, 0.2, seed)
    torch.library.opcheck(operators.attend, attended)
    output, lse = operators.attend(*attended)
    given = (torch.randn_like(output), query, key, value, index, sinks.detach(), lse.detach(), 0.4, 0.2, seed)
    torch.library.opcheck(operators.attend_backward, given)


def run_in_interpreter(file, marks):
    """Run the tests of a file that have the marks in a process in which kernels are interpreted."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", marks, str(file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert " passed" in done.stdout


@needs_interpreter
@pytest.mark.parametrize("marks", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_everything_in_the_interpreter(marks):
    run_in_interpreter(__file__, marks)


OBJECTIONS = [
    ("softcap", {"softcap": 30.0}, "topk_sparse"),
    ("bias", {"bias": torch.zeros(1, 1, 1, 37)}, "topk_sparse"),
    ("head_dim 300", {"dim": 300, "value_dim": 8}, "topk_sparse"),
    ("value_dim 300", {"value_dim": 300}, "bottomk_sparse"),
    ("torch.float64", {"dtype": torch.float64}, "topk_sparse"),
    ("keeps up to 1500 keys", {"batch": 1, "queries": 1, "keys": 2000}, "banded_sparse:window=1500"),
    ("k=2000", {"batch": 1, "queries": 1, "keys": 2000}, "topk_sparse:k=2000"),
    ("selects up to 201 keys by score", {"batch": 1, "queries": 1, "keys": 300}, "topk_sparse:k=201"),
]


@pytest.mark.parametrize(("found", "options", "mechanism"), OBJECTIONS, ids=[case[0] for case in OBJECTIONS])
def test_says_what_it_cannot_do(found, options, mechanism, monkeypatch):
    if not RUNS:
        monkeypatch.setitem(globals(), "DEVICE", "cpu")
    at = problem(**options)
    made = mechanisms.build(mechanism)
    reasons = [reason for reason in backend.LIMITS.objections(made, at) if found in reason]
    assert len(reasons) == 1
    assert "expected" in reasons[0]
    with pytest.raises(ValueError, match=found):
        backends.attend(made, at, backend="triton")


def test_objects_to_weights_to_tracing_and_to_tensors_it_cannot_reach(monkeypatch):
    if not RUNS:
        monkeypatch.setitem(globals(), "DEVICE", "cpu")
    made, at = mechanisms.build("topk_sparse"), problem()
    usual = backend.LIMITS.objections(made, at)
    if RUNS:
        assert usual == []
    elif INSTALLED:
        assert usual == ["tensors are on cpu; expected cuda (or TRITON_INTERPRET=1)"]
    assert set(backend.LIMITS.objections(made, at, return_weights=True)) - set(usual) == {
        "weights are requested; expected the output alone"
    }
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert backend.LIMITS.objections(made, at) == usual
    drawn = backend.LIMITS.objections(mechanisms.build("random_sparse"), at)
    assert any("torch.compile cannot trace how random_sparse" in reason for reason in drawn)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert any("triton is not installed" in reason for reason in backend.LIMITS.objections(made, at))


COMPILED = [
    {"dim": 64, "dtype": torch.float16, "causal": True},
    {
        "dim": 128,
        "dtype": torch.bfloat16,
        "mask": torch.ones(2, 1, 200, 200, dtype=torch.bool),
        "dropout_p": 0.1,
        "sinks": torch.zeros(2, requires_grad=True),
    },
]
SLOWLY_COMPILED = [
    {"dim": 64, "dtype": torch.float32},
    {"dim": 256, "dtype": torch.float16, "mask": torch.ones(2, 1, 1, 200, dtype=torch.bool)},
    {"dim": 128, "dtype": torch.bfloat16, "k": 100},
    {"dim": 80, "value_dim": 96, "dtype": torch.bfloat16, "k": 300, "scale": -1.0},
    {"dim": 128, "dtype": torch.bfloat16, "queries": 1, "keys": 200, "causal": True},
]


def compile_kernels(arch, cases):
    """Print, as JSON, what Triton makes of every kernel for ``sm_<arch>``, compiled as it would be for real calls.

    The host code runs on the CPU with kernels that are compiled instead of launched.
    """
    sys.path.insert(0, str(HERE.parent / "recipes" / "gpu"))
    import resources

    globals()["DEVICE"] = "cpu"
    with resources.compiled_only(arch) as made:
        for case in cases:
            case = {"queries": 200, **case}
            k = case.pop("k", 64)
            at = problem(**case)
            out, _ = backend.attend(mechanisms.build("topk_sparse", k=k), at)
            torch.autograd.grad(out, leaves(at), torch.ones_like(out))
    instructions = ("wgmma.mma_async", "mma.sync")
    counts = [{each: kernel.asm["ptx"].count(each) for each in instructions} for _, kernel in made]
    found = zip(made, counts, strict=True)
    print(json.dumps([{"name": name, "shared": kernel.metadata.shared, **count} for (name, kernel), count in found]))


def _compiled(arch, cases, cache):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    program = f"import test_triton as t; t.compile_kernels({arch}, t.{cases})"
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-10_000:]
    return json.loads(done.stdout.splitlines()[-1])


# bytes of shared memory a program may have: Hopper, and the data center's Ampere
LIMITS = {90: 227 << 10, 80: 163 << 10}


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason=ONCE)
@pytest.mark.parametrize(
    ("arch", "cases"),
    [
        (90, "COMPILED"),
        pytest.param(80, "COMPILED", marks=pytest.mark.slow),
        pytest.param(90, "SLOWLY_COMPILED", marks=pytest.mark.slow),
        pytest.param(80, "SLOWLY_COMPILED", marks=pytest.mark.slow),
    ],
)
def test_kernels_compile_for_gpus(arch, cases, tmp_path):
    kernels = _compiled(arch, cases, tmp_path)
    # the last one where there is a mask
    assert {kernel["name"] for kernel in kernels} - {"_span"} == {
        *("collect", "recollect", "score_candidates", "choose"),
        *("_forward", "_backward_query", "_gather"),
    }
    assert max(kernel["shared"] for kernel in kernels) <= LIMITS[arch]
    instruction = "wgmma.mma_async" if arch == 90 else "mma.sync"
    assert all(kernel[instruction] for kernel in kernels if kernel["name"] == "collect" and cases == "COMPILED")
