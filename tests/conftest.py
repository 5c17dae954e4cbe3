"""Shared by all tests: no network, one thread per process, and tiny models of the three families."""

import gc
import inspect
import os
import sys
from contextlib import suppress

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import time

import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig, LlamaForCausalLM, PreTrainedConfig

from hf_semfocus import mechanisms

VOCABULARY = 61
SPARSE = [
    "topk_sparse:k=3",
    "bottomk_sparse:k=3",
    "random_sparse:k=3",
    "banded_sparse:window=3,num_global_tokens=1",
    "block_local_sparse:block_size=4,num_global_tokens=1",
    "strided_sparse:window=2,stride=3",
    "block_topk_sparse:block_size=2,k=2",
    "entmax_sparse:alpha=1.5",
    "sparsemax_sparse",
    "asentmax_sparse:alpha=1.5",
    "sink_sparse:first=3",
    "topk_sparse:share=0.3",
    "sink_sparse:first=1+banded_sparse:window=2+topk_sparse:k=2",
    "threshold_sparse:margin=0.3",
    "topp_sparse:p=0.4",
]
"""Every mechanism with few keys."""
STATELESS = [spec for spec in SPARSE if not mechanisms.get(mechanisms.base_name(spec)).owns_state()]
"""Those without trainable parameters, which need no model."""


def backends_of(spec):
    """The backends of the CPU that compute a mechanism: lists hold a bounded number of keys, weighed by softmax."""
    made = mechanisms.build(spec)
    listed = made.budget(1) is not None and type(made).normalize is mechanisms.Mechanism.normalize
    return ["eager", "chunked", "gather", "native"][: 4 if listed else 2]


EVERYWHERE = [(spec, backend) for spec in SPARSE for backend in backends_of(spec)]
"""The same with every backend that can compute it."""
CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"
"""What models call the cache they are given: ``cache`` from Transformers 5.24 on."""
PATIENCE = 600
"""Seconds after which a test gives up on another process; no test passes or fails by how fast the machine is."""

with suppress(ImportError):  # the tests of the GPU kernels run without it
    import hypothesis

    rules = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
    hypothesis.settings.register_profile("untimed", **rules)
    hypothesis.settings.load_profile("untimed")


def pytest_collection_finish():
    """Leave what was imported out of later collections, of which Accelerate makes one per run."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let the interpreter take down at its end what was left out."""
    gc.unfreeze()


def wait_until(condition, running=lambda: True):
    """Return as soon as ``condition()`` holds; fail if ``running()`` does not."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert running(), "the process that was waited for has ended"
        assert time.monotonic() < deadline, f"nothing happened in {PATIENCE} seconds"
        time.sleep(0.01)


def tiny_config(family: str, **changes) -> PreTrainedConfig:
    """A random model of two layers and four heads that runs in milliseconds."""
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": VOCABULARY}
    if family == "gpt2":
        sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 64}
        config = GPT2Config(**special, **sizes, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    else:
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
        if family == "bert":
            config = BertConfig(**special, **sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        else:
            config = LlamaConfig(**special, **sizes, num_key_value_heads=2)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # sizes are tiny; more threads only wait for each other
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def own_datasets_cache(tmp_path_factory):
    """A cache of datasets of the test module's own, and no progress bars."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture
def without_curves(monkeypatch):
    """Let no report draw curves, which takes longer than the training of a tiny model."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Fill what torch.empty and its kind return with NaN, so that reading unwritten memory shows."""
    empty, new_empty, empty_like = torch.empty, torch.Tensor.new_empty, torch.empty_like

    def poison(tensor):
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *a, **k: poison(new_empty(self, *a, **k)))
