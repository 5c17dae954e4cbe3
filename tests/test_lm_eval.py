"""``python -m hf_semfocus.lm_eval``: the harness sees our names, or a line says how to install it."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_families import build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_semfocus import lm_eval

ROOT = Path(__file__).parent.parent
STAND_IN = """
import sys
from transformers import AutoModelForCausalLM

def cli_evaluate():
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    pretrained, attention = (part.split("=", 1)[1] for part in options["--model_args"].split(",", 1))
    model = AutoModelForCausalLM.from_pretrained(pretrained, attn_implementation=attention)
    print(options["--tasks"], model.config._attn_implementation)
"""


def test_without_the_harness_a_line_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr(sys, "argv", ["lm_eval.py"])
    with pytest.raises(SystemExit) as ended:
        lm_eval.main()
    message = "lm_eval.py: error: lm-evaluation-harness is not installed; pip install 'hf_semfocus[lm_eval]'\n"
    assert (ended.value.code, capsys.readouterr().err) == (2, message)


def run(arguments, folder, path=ROOT):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (path, ROOT))), "HF_DATASETS_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_command_of_the_readme_has_our_names(tmp_path):
    """With a stand-in for the harness, which loads the model as the harness does."""
    (tmp_path / "path" / "lm_eval").mkdir(parents=True)
    (tmp_path / "path" / "lm_eval" / "__init__.py").write_text("")
    (tmp_path / "path" / "lm_eval" / "__main__.py").write_text(STAND_IN)
    build("gpt2", "sdpa").save_pretrained(tmp_path / "gpt2")
    [command] = re.findall(
        r"^\S+/python (-m hf_semfocus\.lm_eval .*)$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    done = run(shlex.split(command), tmp_path, tmp_path / "path")
    assert done.stdout == "lambada_openai topk_sparse:k=8\n", done.stderr


def test_a_misspelled_name_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(lm_eval, "_harness", lambda: lambda: build("gpt2", "topk_spares"))
    with pytest.raises(SystemExit):
        lm_eval.main()
    [line] = capsys.readouterr().err.splitlines()
    assert "did you mean 'topk_sparse'?" in line


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")
def test_the_harness_measures_what_the_attention_changes(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(61)}, "w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "w3", "pad_token": "w0", "bos_token": "w1", "eos_token": "w2"}
    for name in ("sdpa", "topk_sparse:k=3"):
        build("gpt2", name).save_pretrained(tmp_path / name)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special).save_pretrained(
            tmp_path / name
        )
    rows = [{"text": " ".join(f"w{4 + (3 * row + 7 * word) % 55}" for word in range(14))} for row in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.yaml").write_text(
        "task: words\ndataset_path: json\noutput_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\n"
        "doc_to_target: text\nmetric_list: [{metric: word_perplexity}]\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
    )
    found = []
    for given in ("sdpa", "sdpa,attn_implementation=topk_sparse:k=3", "topk_sparse:k=3"):
        options = f"--model hf --model_args pretrained={given} --tasks words --include_path {tmp_path} --device cpu"
        done = run(["-m", "hf_semfocus.lm_eval", *options.split()], tmp_path)
        found += re.findall(r"word_perplexity\S*\|\S*\s*\|\s*([\d.]+)", done.stdout)
    dense, swapped, saved = found
    assert dense != swapped == saved
