"""What the scripts of this folder share: archives read in memory, files inside packages, and folders to write to."""

from __future__ import annotations

import re
import sys
import tarfile
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO


def read_members(archive: BinaryIO, title: str, names: str) -> Iterator[tuple[str, bytes]]:
    """Name and contents of the regular files in a .tar.gz whose whole name matches ``names``.

    Nothing is unpacked to disk, so that links and names with ``..`` can do no harm.
    """
    found = False
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for member in tar:
                if member.isfile() and re.fullmatch(names, member.name):
                    found = True
                    yield member.name, tar.extractfile(member).read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        sys.exit(f"{title}: not a readable .tar.gz archive ({error})")
    if not found:
        sys.exit(f"{title}: no file in it is called {names}; is it the right archive?")


def read_archive(path: Path, names: str) -> Iterator[tuple[str, bytes]]:
    """The same for a file on disk."""
    try:
        archive = path.open("rb")
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")
    with archive:
        yield from read_members(archive, str(path), names)


def package_path(package: str, name: str, install: str) -> Path:
    """Where a file or folder inside an installed package is; the package itself is not imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:  # no origin: a folder left behind by an uninstalled package
        sys.exit(f"the package {package} is not installed; get it with: {install}")
    path = Path(spec.origin).parent / name
    if not path.exists():
        sys.exit(f"{path} is missing: another version of {package} may have moved it")
    return path


def output_folder(path: Path) -> Path:
    """The folder, made where it is missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"{path}: cannot be made a folder ({error.strerror})")
    return path
