"""From an archive to train.csv and validation.csv, in which no text occurs twice: file and command line."""

from __future__ import annotations

import argparse
import csv
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from _files import output_folder

VALIDATION_SHARE = 0.2
Rows = Iterable[tuple[str, str]]  # text and label


def write_split(rows: Rows, folder: Path, seed: int) -> None:
    """Drop duplicates, shuffle, write both parts with the columns text and label, and print what was done.

    Texts that differ only in case and white space count as identical: they are kept once, or not at all where their
    labels disagree.
    """
    first: dict[str, tuple[str, str]] = {}
    times: Counter[str] = Counter()
    disagree: set[str] = set()
    for text, label in rows:
        key = " ".join(text.casefold().split())
        times[key] += 1
        if first.setdefault(key, (text, label))[1] != label:
            disagree.add(key)
    kept = [row for key, row in first.items() if key and key not in disagree]
    empty, two_labels = times[""], sum(times[key] for key in disagree if key)
    duplicates = times.total() - len(kept) - empty - two_labels
    random.Random(seed).shuffle(kept)
    size = round(VALIDATION_SHARE * len(kept))
    output_folder(folder)
    for name, part in ("train", kept[size:]), ("validation", kept[:size]):
        path = folder / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("text", "label"), *part])
        balance = ", ".join(f"{label} {count}" for label, count in sorted(Counter(row[1] for row in part).items()))
        print(f"{path}: {len(part)} rows ({balance})")
    print(f"dropped of {times.total()} rows: {duplicates} duplicates, {two_labels} with two labels, {empty} empty")


def run(doc: str, archive: str, read: Callable[[Path], Rows], arguments: Sequence[str] | None) -> None:
    """The command line of a script that reads rows from an archive."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help=f"the downloaded {archive}")
    parser.add_argument("output_folder", type=Path, help="where train.csv and validation.csv are written")
    parser.add_argument("--seed", type=int, default=0, help="of the 80/20 split (default: %(default)s)")
    options = parser.parse_args(arguments)
    write_split(read(options.archive), options.output_folder, options.seed)
