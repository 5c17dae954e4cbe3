"""A library that switches a sparse model to dense attention is named in a warning; a user who does so gets none."""

import importlib
import sys
import warnings

import pytest
from tiny_families import build, config
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, CLIPConfig
from transformers.models.whisper import generation_whisper

import hf_semfocus

SPARSE = "topk_sparse:k=3"
LIBRARY = """
import hf_semfocus
from transformers import AutoConfig, AutoModelForCausalLM

def switch(model, name="eager"):
    model.set_attn_implementation(name)

def assign(model):
    model.config._attn_implementation = "eager"

def configure(model):
    hf_semfocus.configure(model, "sdpa")

def load(model, folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")

def load_config(model, folder):
    return AutoConfig.from_pretrained(folder, attn_implementation="eager")
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The module above, as pip would install it."""
    (tmp_path / "site-packages" / "lens").mkdir(parents=True)
    (tmp_path / "site-packages" / "lens" / "__init__.py").write_text("")
    (tmp_path / "site-packages" / "lens" / "bridge.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    yield importlib.import_module("lens.bridge")
    for name in ("lens.bridge", "lens"):
        sys.modules.pop(name)


@pytest.fixture
def user(tmp_path, monkeypatch):
    """The same module, as it lies beside a user's script."""
    (tmp_path / "mine.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mine")
    sys.modules.pop("mine")


def noted(call, *args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        call(*args)
    return [str(warning.message) for warning in caught if "attn_implementation" in str(warning.message)]


@pytest.mark.parametrize(("way", "now"), [("switch", "eager"), ("assign", "eager")])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_a_library_is_named(family, way, now, library, user):
    model = build(family, SPARSE)
    what = type(model.config if way == "assign" else model).__name__
    [message] = noted(getattr(library, way), model)
    assert message == (
        f"lens.bridge switched a {what} from attn_implementation={SPARSE!r} to {now!r}, which is none of "
        f"hf_semfocus; model.set_attn_implementation({SPARSE!r}) switches it back"
    )
    assert model.config._attn_implementation == now
    model.set_attn_implementation(SPARSE)
    assert set(hf_semfocus.verify(model).values()) == {SPARSE}
    assert noted(getattr(user, way), model) == []


@pytest.mark.parametrize("way", ["load", "load_config"])
def test_a_library_that_loads_is_named_and_a_user_who_does_is_not(way, library, user, tmp_path):
    build("gpt2", SPARSE).save_pretrained(tmp_path / "model")
    [message] = noted(getattr(library, way), None, tmp_path / "model")
    assert "lens.bridge switched a GPT2Config" in message
    assert noted(getattr(user, way), None, tmp_path / "model") == []
    here = {"attn_implementation": "sdpa"}
    assert noted(lambda: AutoModelForCausalLM.from_pretrained(tmp_path / "model", **here)) == []
    assert noted(lambda: AutoModel.from_config(AutoConfig.from_pretrained(tmp_path / "model"), **here)) == []


def test_what_is_no_escape_is_not_told_of(library):
    model = build("llama", SPARSE)
    assert noted(library.switch, model, "topk_sparse:k=5") == []
    assert noted(library.switch, build("llama", "sdpa"), "eager") == []
    with pytest.raises(ValueError, match="nonsense"):
        library.switch(model, "nonsense")
    assert noted(library.configure, model) == []  # which it knows by name
    assert model.config._attn_implementation == "sdpa"


def test_parts_are_told_of_once(library):
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32}
    made = CLIPConfig(
        text_config={**sizes, "vocab_size": 61}, vision_config={**sizes, "image_size": 8, "patch_size": 4}
    )
    for way in (library.switch, library.assign):
        for attention in (SPARSE, {"text_config": SPARSE}):
            model = AutoModel.from_config(made, attn_implementation=attention)
            [message] = noted(way, model)
            assert "to 'eager'" in message
            library.__warningregistry__.clear()


def test_transformers_itself_is_named():
    """Whisper's timestamps of words need weights, for which it assigns ``eager`` in ``generate``."""
    held = config("bert")
    held._attn_implementation = SPARSE
    model = type("Whisper", (), {"config": held})
    code = "def generate(model):\n    model.config._attn_implementation = 'eager'\n"
    scope = {"__name__": generation_whisper.__name__}
    exec(compile(code, generation_whisper.__file__, "exec"), scope)
    [message] = noted(scope["generate"], model)
    assert message.startswith("transformers.models.whisper.generation_whisper switched a BertConfig")
