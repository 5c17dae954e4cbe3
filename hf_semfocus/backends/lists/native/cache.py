"""Cache of compiled libraries, in folders that only the user may write to.

A library's name is ``kernels-<key>-<checksum>.so``: it appears complete or not at all, also with concurrent builds,
and one that was truncated or altered does not match its name, is removed and built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

UNFINISHED = "building-"
ABANDONED = 3600.0  # seconds after which an unfinished build counts as abandoned


def folders() -> Iterator[Path]:
    """Folders for libraries, in order of preference: the user's cache, then a folder for temporary files."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    with contextlib.suppress(RuntimeError):  # there is no home folder
        cache = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
        if cache.is_absolute():
            yield cache / "hf_semfocus"
    yield Path(tempfile.gettempdir()) / f"hf_semfocus-{os.geteuid()}"


def find(folder: Path, key: str) -> Path | None:
    """The library of ``key`` in ``folder``; one whose content does not match its name is removed.

    Raises:
        OSError: the folder cannot be read, or belongs to or may be written to by others.
    """
    if not os.path.lexists(folder):
        return None
    _check(folder, stat.S_ISDIR)
    for library in sorted(folder.glob(f"kernels-{key}-*.so")):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            try:
                _check(library, stat.S_ISREG)
                if _named(library, key) == library.name:
                    return library
            except PermissionError:
                pass
            library.unlink()
    return None


def add(folder: Path, key: str, make: Callable[[Path], None]) -> Path:
    """Let ``make`` write the library of ``key``, and put it into ``folder``.

    Raises:
        OSError: the folder cannot be written to, or belongs to or may be written to by others.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check(folder, stat.S_ISDIR)
    _sweep(folder)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder, ignore_cleanup_errors=True) as place:
        made = Path(place) / "kernels.so"
        make(made)
        made.chmod(0o700)
        library = folder / _named(made, key)
        os.replace(made, library)
    return library


def _named(library: Path, key: str) -> str:
    return f"kernels-{key}-{hashlib.sha256(library.read_bytes()).hexdigest()}.so"


def _check(path: Path, is_kind: Callable[[int], bool]) -> None:
    """Refuse a path that others could have written.

    Raises:
        PermissionError: names the owner or the mode.
    """
    found = path.lstat()
    if not is_kind(found.st_mode):
        raise PermissionError(f"{path} is a link or of another kind; expected a folder with plain files")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to user {found.st_uid}; expected {os.geteuid()}, who runs this")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} may be written to by others (mode {found.st_mode & 0o777:o}); expected 700")


def _sweep(folder: Path) -> None:
    """Remove the files of interrupted builds."""
    for left in folder.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):
            if left.lstat().st_mtime < time.time() - ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
