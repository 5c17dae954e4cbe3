"""Publishing and loading with the real Hub client, against a Hub on the loopback interface.

The client reads ``HF_ENDPOINT`` when it is imported, so it runs in two processes of its own: one that publishes, one
that loads with an empty cache. What they are asked to do are the functions whose names start with ``client_``.
"""

import io
import json
import logging
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch
from urllib.error import HTTPError
from urllib.request import urlopen

import huggingface_hub.constants  # in a client: before conftest turns the network off
import pytest
import torch
from conftest import PATIENCE, tiny_config
from hub_server import serving
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import hf_semfocus
from hf_semfocus import hub

TOKEN = "hf_" + "Kq7" * 11 + "Z"
SPEC = "topk_sparse:k=3"
RESULTS = [
    {"attention": "sdpa", "metric": "accuracy", "values": {0: 0.5}, "dataset": "even_pairs", "split": "test"},
    {"attention": SPEC, "metric": "accuracy", "values": {0: 0.75}, "dataset": "even_pairs", "split": "test"},
]
COMMIT = r"POST /api/models/.*/commit/"


def tiny(seed=0, attention=SPEC, settings=None):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config("gpt2"), attn_implementation=attention).eval()
    if settings:
        model.config.semfocus = settings
    return model


def tiny_adapter(base, seed=0):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    targets = ["c_attn", "c_proj", "c_fc"]
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=targets, init_lora_weights=False, fan_in_fan_out=True)
    return get_peft_model(base, config).eval()


def tiny_tokenizer():
    words = {word: i for i, word in enumerate(["<unk>", "The", "quick", "brown", "fox"])}
    inner = Tokenizer(models.WordLevel(words, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def answer_of(model):
    """Logits bit for bit, and which layer uses what."""
    inputs = torch.arange(3, 27).view(2, 12)
    with torch.no_grad():
        logits = model(inputs).logits
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return logits.numpy().tobytes(), hf_semfocus.verify(base, input_ids=inputs)


def client_push(repo_id, seed=0, attention=SPEC, settings=None, tokenizer=False, **options):
    model = tiny(seed, attention, settings)
    options = {"results": RESULTS, **options} if attention == SPEC else options
    done = hub.push_to_hub(model, tiny_tokenizer() if tokenizer else None, repo_id, **options)
    return asdict(done), *answer_of(model)


def client_push_adapter(repo_id, base_id, **options):
    model = tiny_adapter(AutoModelForCausalLM.from_pretrained(base_id, token=TOKEN))
    done = hub.push_to_hub(model, None, repo_id, **options)
    return asdict(done), *answer_of(model)


def client_pull(repo_id, **options):
    model = AutoModelForCausalLM.from_pretrained(repo_id, **options).eval()
    return *answer_of(model), model.config._attn_implementation, getattr(model.config, "semfocus", None)


def client_pull_adapter(repo_id, base=None, **options):
    base = tiny(0, "sdpa") if base == "dense" else base
    return answer_of(hub.load_adapter(repo_id, base, **options).eval())


def client_recipe(folder, repo_id):
    """Train and publish by the recipe; what its last checkpoint answers."""
    from test_pretrain_recipe import pretrain

    args = ["--task", "mqar", "--model", "gpt2", "--attention", "sdpa", SPEC, "--train_size", "20", "--eval_size", "9"]
    args += ["--epochs", "1", "--hidden_size", "16", "--seeds", "5", "--cpu_threads", "1", "--output_dir", folder]
    results = pretrain.main([*args, "--push_to_hub", "--hub_model_id", repo_id])
    [last] = Path(folder).glob("runs/topk*/last")
    written = "".join(path.read_text() for path in Path(folder).glob("*.*") if path.suffix != ".png")
    assert TOKEN not in written
    return results, *answer_of(AutoModelForCausalLM.from_pretrained(last).eval())


def client_snapshot(repo_id):
    from huggingface_hub import snapshot_download

    return snapshot_download(repo_id)


def client_commit_on_old_state(repo_id):
    from hf_semfocus.hub.remote import Remote

    remote = Remote(repo_id, TOKEN)
    state = remote.state()
    client_push(repo_id, seed=5)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "README.md").write_text("mine")
        remote.commit(Path(folder), state, "late")


def client_push_to_full_disk(repo_id, error):
    from transformers import GPT2LMHeadModel as Model

    save, before = Model.save_pretrained, set(Path(tempfile.gettempdir()).iterdir())

    def half(self, folder, **options):
        save(self, folder, **options)
        raise error

    Model.save_pretrained = half
    try:
        client_push(repo_id)
    finally:
        Model.save_pretrained = save
        left = set(Path(tempfile.gettempdir()).iterdir()) - before
        assert not [path for path in left if path.name.startswith("hf_semfocus-")]


def client_error_objects(repo_id):
    """Everything that hangs on the exception of a refused push, and the client's log."""
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    logging.getLogger("huggingface_hub").addHandler(handler)
    try:
        client_push(repo_id)
    except hub.HubError as error:
        chain = (error.__cause__, error.__context__)
        return str(error), repr(error), vars(error), chain, pickle.loads(pickle.dumps(error)).args, logged.getvalue()


def _log_to(path):
    assert os.environ["HF_ENDPOINT"] == huggingface_hub.constants.ENDPOINT
    del os.environ["HF_HUB_OFFLINE"]
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)


def _do(function, args, options):
    torch.set_num_threads(1)
    time.sleep = lambda seconds: None  # the client waits between retries
    try:
        return True, function(*args, **options)
    except Exception as error:
        return False, (type(error).__name__, str(error), traceback.format_exc(), getattr(error, "status", None))


class Told(Exception):  # noqa: N818
    """An exception of a client process: its type, message and traceback as text."""

    def __init__(self, kind, message, text, status):
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.text, self.status = kind, message, text, status


class Client:
    """A process with the Hub's client in it, pointed at the loopback Hub."""

    def __init__(self, url, folder, token):
        folder.mkdir()
        self.home, self.log = folder / "home", folder / "log"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": "1" if token else "2",  # sets have another order in the other process
            **({"HF_TOKEN": token} if token else {}),
        }
        spawn = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, spawn, _log_to, (str(self.log),))
        with patch.dict(os.environ, self.environment, clear=True):
            self.pool.submit(os.getpid)  # starts the process

    def __call__(self, function, *args, **options):
        well, value = self.pool.submit(_do, function, args, options).result(timeout=PATIENCE)
        if not well:
            assert TOKEN not in "".join(map(str, value))
            raise Told(*value)
        return value


@pytest.fixture(scope="module")
def server():
    with serving(tokens={TOKEN: "owner", "hf_other": "other"}) as running:
        yield running


@pytest.fixture(scope="module")
def clients(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    started = [Client(server.url, folder / name, token) for name, token in (("publisher", TOKEN), ("reader", None))]
    yield started
    for client in started:
        client.pool.shutdown()
        assert TOKEN not in client.log.read_text()


@pytest.fixture
def publish(clients):
    return clients[0]


@pytest.fixture
def load(clients):
    return clients[1]


@pytest.fixture(autouse=True)
def _nothing_left_over(request):
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        server.faults.clear()
        server.uploads.clear()


def error_of(client, function, *args, **options):
    with pytest.raises(Told) as caught:
        client(function, *args, **options)
    assert "\n" not in caught.value.message
    return caught.value


def split(readme):
    head, text = re.fullmatch(r"---\n(.*?)\n---\n(.*)", readme.decode(), re.DOTALL).groups()
    return head, text


def test_comes_back_bit_for_bit_and_sparse(server, publish, load):
    done, logits, layers = publish(client_push, "owner/tiny", tokenizer=True, training_args={"lr": 0.1}, license="mit")
    repository = server.repositories["owner/tiny"]
    assert repository.private
    assert [message for _, message, _ in repository.commits] == ["put", "Publish tiny with hf_semfocus"]
    assert done["commit"] == repository.commits[-1][0]
    assert done["changed"]
    assert set(done["files"]) | {".gitattributes"} == set(repository.files)
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "training_args.json"} <= set(
        repository.files
    )
    assert layers == {"transformer.h.0.attn": SPEC, "transformer.h.1.attn": SPEC}
    assert load(client_pull, "owner/tiny", token=TOKEN) == (logits, layers, SPEC, {"k": 3})
    # from the name and the configuration together
    settings = {"k": 2, "backend": "chunked"}
    _, logits, layers = publish(client_push, "owner/settings", attention="topk_sparse", settings=settings)
    assert load(client_pull, "owner/settings", token=TOKEN) == (logits, layers, "topk_sparse", settings)
    assert layers["transformer.h.1.attn"] == "topk_sparse:k=2"


def test_what_a_recipe_publishes_comes_back_with_all_results(server, publish, load, tmp_path):
    results, logits, layers = publish(client_recipe, str(tmp_path / "run"), "owner/recalls")
    assert load(client_pull, "owner/recalls", token=TOKEN)[:3] == (logits, layers, SPEC)
    repository = server.repositories["owner/recalls"]
    assert repository.private
    assert {"README.md", "training_args.json", "metrics.json", "curves.png"} <= set(repository.files)
    head, card = split(repository.files["README.md"])
    assert "sparse-attention" in head
    assert "accelerate launch" in card
    for result in results:
        assert f"| `{result['attention']}`" in card
        assert f"{result['eval_loss']:.4g}" in card


def test_again_without_change_makes_no_commit(server, publish, load):
    first, *_ = publish(client_push, "owner/again", tokenizer=True, metrics={"loss": float("nan")})
    second, *_ = publish(client_push, "owner/again", tokenizer=True, metrics={"loss": float("nan")})
    assert (second["commit"], second["changed"]) == (first["commit"], False)
    # and from another process
    assert not load(client_push, "owner/again", tokenizer=True, metrics={"loss": None}, token=TOKEN)[0]["changed"]
    assert len(server.repositories["owner/again"].commits) == 2
    third, logits, _ = publish(client_push, "owner/again", seed=1, tokenizer=True, metrics={"loss": 1.0})
    assert third["changed"]
    assert len(server.repositories["owner/again"].commits) == 3
    assert load(client_pull, "owner/again", token=TOKEN)[0] == logits


def test_usage_in_the_card_runs_as_it_stands(server, publish, load):
    publish(client_push, "owner/used", tokenizer=True, private=False)
    publish(client_push_adapter, "owner/used-adapter", "owner/used", private=False)
    code = ""
    for name in ("owner/used", "owner/used-adapter"):
        text = server.repositories[name].files["README.md"].decode()
        code += re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
        code += "print(model.config._attn_implementation)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=load.environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-2:] == [SPEC, SPEC]


def test_adapter(server, publish, load):
    _, dense, _ = publish(client_push, "owner/base", attention="banded_sparse", settings={"window": 3})
    _, logits, layers = publish(client_push_adapter, "owner/adapter", "owner/base")
    files = server.repositories["owner/adapter"].files
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(files)
    assert not {"config.json", "model.safetensors"} & set(files)
    assert json.loads(files["adapter_config.json"])["hf_semfocus"] == {"attention": layers["transformer.h.0.attn"]}
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "owner/base"
    assert logits != dense
    assert load(client_pull_adapter, "owner/adapter", token=TOKEN) == (logits, layers)
    # on a base model that was dense
    assert load(client_pull_adapter, "owner/adapter", "dense", token=TOKEN) == (logits, layers)
    again, *_ = load(client_push_adapter, "owner/adapter", "owner/base", token=TOKEN)
    assert not again["changed"]
    head, text = split(files["README.md"])
    assert "base_model: owner/base" in head.splitlines()
    assert "library_name: peft" in head.splitlines()
    assert 'hf_semfocus.load_adapter("owner/adapter")' in text
    assert "holds an adapter; expected another repo_id" in error_of(publish, client_push, "owner/adapter").message
    error = error_of(publish, client_push_adapter, "owner/base", "owner/base")
    assert "holds a whole model; expected another repo_id" in error.message


def test_what_people_wrote_on_the_hub_stays(server, publish):
    publish(client_push, "owner/merged", license="mit")
    repository = server.repositories["owner/merged"]
    head, text = split(repository.files["README.md"])
    head = head.replace("license: mit", "license: apache-2.0  # ask legal first\nlanguage:\n- de")
    head = head.replace("- sparse-attention", "- sparse-attention\n- mine")
    server.put("owner/merged", {"README.md": f"---\n{head}\n---\nBefore.\n{text}\n## After\n\nMine.\n".encode()})
    # the text now says the license and the language, too; the metadata keeps its comment
    assert publish(client_push, "owner/merged", license="apache-2.0", language="de")[0]["changed"]
    assert split(repository.files["README.md"])[0] == head
    assert not publish(client_push, "owner/merged")[0]["changed"]
    publish(client_push, "owner/merged", attention="banded_sparse:window=4", license="mit")
    new_head, new_text = split(repository.files["README.md"])
    lines = new_head.splitlines()
    assert {"license: apache-2.0", "- mine", "- de", "- banded_sparse"} <= set(lines)
    assert not {"- topk_sparse", "model-index:"} & set(lines)  # the old weights' mechanism and results
    assert new_text.startswith("Before.\n")
    assert new_text.endswith("\n## After\n\nMine.\n")
    assert "`banded_sparse:window=4" in new_text
    assert SPEC not in new_text
    assert "the card on the Hub says 'apache-2.0', kept; 'mit' was given" in publish.log.read_text()
    server.put("owner/merged", {"README.md": b"---\nlicense: [\n---\n"})
    assert "cannot be read" in error_of(publish, client_push, "owner/merged").message
    server.put("owner/merged", {"README.md": b"\xff"})
    assert "is not UTF-8 text" in error_of(publish, client_push, "owner/merged").message
    server.put("owner/merged", {"README.md": "only by händ\r\n".encode()})
    publish(client_push, "owner/merged")
    begin = "\r\n---\r\nonly by händ\r\n\r\n<!-- hf_semfocus:begin -->\r\n"
    assert begin.encode() in repository.files["README.md"]


def test_visibility_is_never_changed(server, publish):
    publish(client_push, "owner/public", private=False)
    publish(client_push, "owner/public", seed=1)
    assert not server.repositories["owner/public"].private
    error = error_of(publish, client_push, "owner/public", seed=2, private=True)
    assert "'owner/public' is public" in error.message
    assert len(server.repositories["owner/public"].commits) == 3
    publish(client_push, "owner/private")
    publish(client_push, "owner/private", seed=1, private=False)
    assert server.repositories["owner/private"].private


def test_weights_in_other_files_are_replaced(server, publish, load):
    old = {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}", "notes.txt": b"mine"}
    server.put("owner/sharded", {**old, "pytorch_model.bin": b"old"})
    _, logits, _ = publish(client_push, "owner/sharded")
    files = server.repositories["owner/sharded"].files
    assert set(old) & set(files) == {"notes.txt"}
    assert "pytorch_model.bin" in files  # never read where there are safetensors
    assert load(client_pull, "owner/sharded")[0] == logits


def test_files_about_old_weights_go_with_them(server, publish):
    server.put("owner/about", {"training_args.json": b"somebody's own"})
    publish(client_push, "owner/about", metrics={"loss": 1})
    publish(client_push, "owner/about", seed=1)
    files = server.repositories["owner/about"].files
    assert "metrics.json" not in files
    assert files["training_args.json"] == b"somebody's own"
    assert "- Metrics: not given" in files["README.md"].decode()


def test_private_missing_and_wrong_token(server, publish, load):
    publish(client_push, "owner/secret")
    for repo_id in ("owner/secret", "owner/missing"):
        error = error_of_lines(load, client_pull, repo_id)
        assert error.kind == "OSError"
        assert f"{repo_id} is not a local folder and is not a valid model identifier" in error.message
        error = error_of(load, client_pull_adapter, repo_id)
        assert (error.kind, error.status) == ("HubError", 401)
        assert "hf auth login" in error.message
        error = error_of(load, client_pull_adapter, repo_id, token="hf_other")
        assert (error.kind, error.status) == ("HubError", 404)
        assert "it does not exist, or it is private" in error.message
    assert "no access token; log in" in error_of(load, client_push, "owner/secret").message
    wrong = "hf_" + "w" * 34
    error = error_of(publish, client_push, "owner/secret", seed=1, token=wrong)
    assert (error.kind, error.status) == ("HubError", 401)
    assert wrong not in error.text
    assert error_of(publish, client_push, "other/place").status == 403
    assert error_of(publish, client_push, "owner/secret", token="hf_other").status == 403
    error = error_of(publish, client_push, "owner/secret", token="hf_bro ken\nX-Evil: 1")
    assert "holds characters that no token has" in error.message
    assert "hf_bro" not in error.message
    assert len(server.repositories["owner/secret"].commits) == 2
    assert "other/place" not in server.repositories


def error_of_lines(client, function, *args, **options):
    with pytest.raises(Told) as caught:
        client(function, *args, **options)
    return caught.value


FAULTS = [
    (r"GET /api/models/.*", 500),
    (r"GET /api/models/.*", "truncate"),
    (r"POST /api/repos/create", 500),
    (r"POST /api/repos/create", "drop_after"),
    (r"POST /api/validate-yaml", 500),
    (r"POST .*/preupload/", "drop"),
    (r"POST .*/objects/batch", 500),
    (r"PUT /_lfs/", 500),
    (r"PUT /_lfs/", "drop"),
    (r"PUT /_lfs/", "truncate"),
    (COMMIT, 500),
    (COMMIT, "drop"),
    (COMMIT, "truncate"),
    (COMMIT, 412),
]


@pytest.mark.parametrize(("where", "kind"), FAULTS)
def test_failing_upload_publishes_nothing_and_a_retry_all(where, kind, server, publish):
    repo_id = f"owner/fault-{FAULTS.index((where, kind))}"
    server.fail(where, kind, times=20)
    error = error_of(publish, client_push, repo_id)
    assert error.kind == "HubError"
    assert repo_id in error.message
    assert "again" in error.message or kind == "truncate"
    held = server.repositories.get(repo_id)
    assert held is None or (len(held.commits) == 1 and set(held.files) == {".gitattributes"})
    server.faults.clear()
    done, *_ = publish(client_push, repo_id)
    held = server.repositories[repo_id]
    assert held.private
    assert len(held.commits) == 2
    assert set(done["files"]) == set(held.files) - {".gitattributes"}


PASSING = {(r"PUT /_lfs/", 500): 1, (r"PUT /_lfs/", "drop"): 2, (r"/preupload/", 500): 3}


@pytest.mark.parametrize(("where", "kind"), PASSING)
def test_a_fault_that_passes_is_not_seen(where, kind, server, publish):
    publish(client_push, "owner/passing")
    server.fail(where, kind)
    assert publish(client_push, "owner/passing", seed=PASSING[where, kind])[0]["changed"]
    assert not server.faults[0].times


def test_failure_on_an_existing_repository_leaves_it_as_it_was(server, publish):
    publish(client_push, "owner/kept")
    files = dict(server.repositories["owner/kept"].files)
    for where, kind in [(r"PUT /_lfs/", "truncate"), (COMMIT, "drop"), (r"GET /owner/kept/resolve/.*README", 500)]:
        server.fail(where, kind, times=20)
        assert error_of(publish, client_push, "owner/kept", seed=1).kind == "HubError"
        server.faults.clear()
        assert server.repositories["owner/kept"].files == files
    # the answer to a commit is lost: it is there, and trying again finds nothing to do
    server.fail(COMMIT, "drop_after")
    assert "trying again is safe" in error_of(publish, client_push, "owner/kept", seed=1).message
    assert not publish(client_push, "owner/kept", seed=1)[0]["changed"]
    assert len(server.repositories["owner/kept"].commits) == 3


def test_truncated_download_is_noticed(server, publish, load):
    _, logits, layers = publish(client_push, "owner/cut", private=False)
    server.fail(r"GET /owner/cut/resolve/.*/model.safetensors", "truncate")
    assert load(client_pull, "owner/cut")[:2] == (logits, layers)


def test_commit_of_another_in_between_is_not_overwritten(server, publish):
    publish(client_push, "owner/race")
    error = error_of(publish, client_commit_on_old_state, "owner/race")
    assert (error.kind, error.status) == ("HubError", 412)
    assert "the repository changed meanwhile; try again" in error.message
    assert server.repositories["owner/race"].files["README.md"] != b"mine"


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")],
)
def test_full_disk(error, server, publish):
    before = len(server.log)
    told = error_of(publish, client_push_to_full_disk, "owner/full", error)
    assert told.kind == "HubError"
    assert "no space left on the disk while writing to" in told.message
    assert "nothing was published" in told.message
    assert "owner/full" not in server.repositories
    assert not [line for line in server.log[before:] if not line.startswith("GET ")]


def test_token_is_nowhere(server, publish):
    error = error_of(publish, client_push, "owner/leak", training_args={"hub_token": TOKEN})
    assert error.message.startswith("training_args.json holds an access token of the Hub; remove it before")
    error = error_of(publish, client_push, "owner/leak", limits=f"see hf_{'a1' * 17}")
    assert error.message.startswith("README.md holds an access token")
    assert "owner/leak" not in server.repositories
    for where in (r"POST /api/repos/create", r"PUT /_lfs/", COMMIT):
        server.uploads.clear()
        server.fail(where, "echo", times=9)
        message, _, _, chain, *_ = told = publish(client_error_objects, "owner/leak")
        assert chain == (None, None)
        if "_lfs" not in where:  # where the client sends no token
            assert "cannot use Bearer [token]" in message
        assert TOKEN not in str(told)
        server.faults.clear()
    server.fail(r"POST .*/preupload/", 500, times=9)
    assert "HTTP Error 500" in publish(client_error_objects, "owner/leak")[-1]
    for repository in server.repositories.values():
        for _, message, files in repository.commits:
            assert TOKEN not in message
            assert not [name for name, content in files.items() if TOKEN.encode() in content]


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_pickled_weights_are_refused(server, publish, load, tmp_path):
    publish(client_push, "owner/pickle", private=False)
    publish(client_push_adapter, "owner/pickle-adapter", "owner/pickle", private=False)
    content = io.BytesIO()
    torch.save({"weight": Evil(tmp_path / "executed")}, content)
    for repo_id, weights in (("owner/pickle", "model"), ("owner/pickle-adapter", "adapter_model")):
        files = server.repositories[repo_id].files
        kept = {name: text for name, text in files.items() if not name.endswith(".safetensors")}
        for name in (f"{weights}.bin", "pytorch_model.bin", "adapter_model.pt"):
            kept[name] = content.getvalue()
        server.put(f"{repo_id}-evil", kept)
    assert "weights" in error_of_lines(load, client_pull, "owner/pickle-evil").message.lower()
    error = error_of(load, client_pull_adapter, "owner/pickle-adapter-evil")
    assert "holds no adapter_model.safetensors" in error.message
    assert not (tmp_path / "executed").exists()


def test_file_names_do_not_lead_outside(server, publish, load):
    publish(client_push, "owner/paths", private=False)
    files = server.repositories["owner/paths"].files
    names = ["../../../../escaped.txt", "a/../../../../../escaped.txt", "/tmp/hf_semfocus-escaped.txt"]
    server.put("owner/paths", {**dict.fromkeys(names, b"evil"), "..\\escaped.txt": b"evil"})
    weights = files["model.safetensors"]
    del server.repositories["owner/paths"].files["model.safetensors"]
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": names[0]}}
    server.put("owner/paths", {"model.safetensors.index.json": json.dumps(index).encode(), names[0]: weights})
    error_of_lines(load, client_pull, "owner/paths")
    error_of_lines(load, client_snapshot, "owner/paths")
    cache = load.home / "hub" / "models--owner--paths"
    assert not [path for path in load.home.parent.rglob("*escaped*") if cache not in path.parents]
    assert not list(Path("/tmp").glob("*escaped*"))
    assert not [p for p in cache.rglob("*escaped*") if not p.resolve().is_relative_to(cache.resolve())]


def test_hostile_configuration(server, publish, load):
    _, logits, layers = publish(client_push, "owner/config", attention="topk_sparse:k=64", private=False)
    good = json.loads(server.repositories["owner/config"].files["config.json"])

    def have(**changes):
        server.put("owner/config", {"config.json": json.dumps({**good, **changes}).encode()})

    huge = 10**9
    have(attn_implementation="topk_sparse", semfocus={"k": huge})
    got, layers, *_ = load(client_pull, "owner/config")
    assert (got, set(layers.values())) == (logits, {f"topk_sparse:k={huge}"})  # more keys than there are: all of them
    for changes, message in [
        ({"attn_implementation": "telepathy_sparse"}, r"telepathy_sparse.*hf_semfocus adds .*topk_sparse"),
        ({"attn_implementation": "topk_sparse:k=0"}, r"topk_sparse: k=0 is not allowed; expected an integer"),
        ({"attn_implementation": "topk_sparse:window=3"}, r"topk_sparse has no parameter 'window'"),
        ({"attn_implementation": "topk_sparse", "semfocus": {"k": 1e300}}, r"k=1e\+300 is not allowed"),
        ({"attn_implementation": "topk_sparse", "semfocus": ["k"]}, r"config.semfocus=\['k'\]; expected a dict"),
    ]:
        have(**changes)
        error = error_of_lines(load, client_pull, "owner/config")
        assert error.kind == "ValueError"
        assert re.search(message, error.message)


def test_hostile_adapter(server, publish, load):
    publish(client_push, "owner/hostile-base", private=False)
    publish(client_push_adapter, "owner/hostile", "owner/hostile-base", private=False)
    good = server.repositories["owner/hostile"].files
    config = json.loads(good["adapter_config.json"])

    def said(entry):
        return json.dumps({**config, "hf_semfocus": entry}).encode()

    for content, message in [
        (b"[]", "holds a list; expected an object"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff", "is not JSON"),
        (b" " * (1 << 21), "has 2097152 bytes; expected at most"),
        (json.dumps({**config, "hf_semfocus": {"attention": "evil/kernel"}}), "attention='evil/kernel' is not known"),
        (
            json.dumps({**config, "hf_semfocus": None}),
            "has no entry 'hf_semfocus'; expected an adapter that was saved",
        ),
    ]:
        server.put(
            "owner/hostile", {"adapter_config.json": content if isinstance(content, bytes) else content.encode()}
        )
        error = error_of(load, client_pull_adapter, "owner/hostile")
        assert error.kind == ("HubError" if "has no entry" in message else "ValueError")
        assert message in error.message
    config = {**config, "base_model_name_or_path": None}
    server.put("owner/hostile", {**good, "adapter_config.json": json.dumps(config).encode()})
    assert "expected it as base=..." in error_of(load, client_pull_adapter, "owner/hostile").message
    assert load(client_pull_adapter, "owner/hostile", "dense")
    config = {**config, "task_type": {"a": 1}}
    server.put("owner/hostile", {**good, "adapter_config.json": json.dumps(config).encode()})
    assert "task_type={'a': 1}, which is not enough" in error_of(load, client_pull_adapter, "owner/hostile").message


def test_server_by_hand():
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py")), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"{url}/api/whoami-v2")
        process.terminate()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.usefixtures("no_network")
def test_dry_run_asks_nobody(tmp_path):
    (tmp_path / "there.png").write_bytes(b"picture")
    model = tiny()
    done = hub.push_to_hub(
        model, tiny_tokenizer(), "owner/dry", RESULTS, curves=tmp_path / "there.png", dry_run=tmp_path / "dry"
    )
    assert done == hub.Published("owner/dry", None, True, tuple(sorted(p.name for p in (tmp_path / "dry").iterdir())))
    assert "![Curves of the training](curves.png)" in (tmp_path / "dry" / "README.md").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "dry").eval()
    assert answer_of(again) == answer_of(model)
    adapter = tiny_adapter(again)
    with pytest.warns(UserWarning, match="the base model is the folder '.*dry', left out"):
        hub.push_to_hub(adapter, None, "owner/dry", dry_run=tmp_path / "adapter")
    assert "HF_HUB_OFFLINE" not in os.environ
    written = "".join(path.read_text(errors="ignore") for path in (tmp_path / "adapter").iterdir())
    assert str(tmp_path) not in written
    assert 'base = AutoModelForCausalLM.from_pretrained("...")  # which one is not given' in written
    loaded = hub.load_adapter(tmp_path / "adapter", tiny(0, "sdpa")).eval()
    assert answer_of(loaded) == answer_of(adapter.eval())
    adapter.peft_config["default"].base_model_name_or_path = "owner/base"
    with pytest.warns(UserWarning, match="will assume that the vocabulary was not modified") as caught:
        hub.push_to_hub(adapter, None, "owner/dry", dry_run=tmp_path / "named")
    assert not [warning for warning in caught if "Unable to fetch" in str(warning.message)]
    assert "base_model: owner/base\n" in (tmp_path / "named" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"dry_run='.*dry' exists; expected a new or an empty folder"):
        hub.push_to_hub(model, None, "owner/dry", dry_run=tmp_path / "dry")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "dry", "named", "there.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repo_id": "dry"}, "repo_id='dry'; expected owner/name"),
        ({"repo_id": "owner/../x"}, "owner/../x"),
        ({"licence": "mit"}, "unknown detail 'licence'; expected some of results, seed, .*license"),
        ({"curves": "nowhere.png"}, "curves='nowhere.png'; expected a picture file"),
        ({"training_args": {"a": [object]}}, r"training_args.a\[0\]=<class 'object'>; expected text, numbers"),
        ({"training_args": 3}, "training_args=3; expected a mapping"),
        ({"token": False, "dry_run": None}, "no access token; log in with `hf auth login`"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_wrong_arguments(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        hub.push_to_hub(tiny(), None, **{"repo_id": "owner/dry", "dry_run": tmp_path / "dry", **options})
    assert not list(tmp_path.iterdir())


def test_models_that_are_not_ours(tmp_path):
    with pytest.raises(ValueError, match=r"attn_implementation is 'sdpa'; expected one of .*topk_sparse"):
        hub.push_to_hub(tiny(0, "sdpa"), None, "owner/dry", dry_run=tmp_path / "dry")
    with pytest.raises(TypeError, match=r"Linear is not a Transformers or PEFT model; unwrap it first"):
        hub.push_to_hub(torch.nn.Linear(2, 2), None, "owner/dry", dry_run=tmp_path / "dry")
