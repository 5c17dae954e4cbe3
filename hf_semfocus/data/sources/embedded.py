"""The text this package ships, so that a language model can be trained without a network.

State of the Union addresses and Moby-Dick, in the public domain; ``LICENSE-embedded.txt`` beside this file tells where
they come from and how the file was made.
"""

from __future__ import annotations

import bz2
import hashlib
import json
from pathlib import Path

PATH = Path(__file__).with_name("embedded.jsonl.bz2")
SHA256 = "7525f81eae7b8512804b86021704281859439704f64ff1a01f4a8034abff4417"


def records(split: str) -> list[dict[str, str]]:
    """The documents of a split ("train" or "validation"), each with title, split, source, licence and text.

    Raises:
        OSError: the file is missing or is not the one that was shipped.
    """
    content = PATH.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise OSError(f"{PATH} is damaged: its SHA-256 is {found}, expected {SHA256}; install the package again")
    lines = bz2.decompress(content).decode("utf-8").split("\n")
    documents = [json.loads(line) for line in lines if line]
    return [document for document in documents if document["split"] == split]
