"""Atomic file writes, locks, and detection of full disks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

UNFINISHED = ".unfinished"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BROKEN = ("basic_ios::clear: iostream error", ". unexpected pos ")


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk; does nothing on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a file by ``text`` atomically."""
    unfinished = path.with_name(path.name + UNFINISHED)
    unfinished.write_text(text, encoding="utf-8")
    sync(unfinished)
    os.replace(unfinished, path)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a JSON value atomically."""
    write_text(path, json.dumps(value, indent=1))


def check_space(folder: str | Path, needed: int) -> None:
    """Refuse to start work that would fill the disk.

    Args:
        folder: where the files go; it need not exist.
        needed: bytes of all files at the end, including those of an interrupted training.

    Raises:
        ValueError: fewer bytes are free, or the folder cannot be accessed.
    """
    place = Path(folder).absolute()
    try:
        while not place.exists():
            place = place.parent
        needed -= sum(file.stat().st_size for file in Path(folder).glob("runs/**/*") if file.is_file())
        disk = shutil.disk_usage(place)
    except OSError as error:
        raise ValueError(f"output_dir={str(folder)!r} cannot be used: {error}") from error
    if disk.total and disk.free < needed:  # a pseudo file system, such as /proc, fails on writing
        raise ValueError(
            f"output_dir={str(folder)!r}: models and checkpoints take up to {needed / 1e6:.0f} MB more, and "
            f"{disk.free / 1e6:.0f} MB are free"
        )


def crc(path: Path) -> int:
    """Checksum of a file's content."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def name_finished(unfinished: Path, folder: Path) -> None:
    """Rename a finished folder atomically; an existing folder of that name is deleted first."""
    for path in (*unfinished.rglob("*"), unfinished):
        sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(unfinished, folder)
    sync(folder.parent)


def locked(path: Path) -> IO[str]:
    """Lock a file until the returned object is closed or the process ends in any way.

    The file stays: if it were deleted, two processes could lock two files of one name. Nothing is locked where the
    system has no such locks, as on Windows and some network file systems.

    Raises:
        ValueError: another process has locked it.
    """
    file = path.open("a")
    with suppress(ImportError):
        import fcntl

        try:
            # a lock of the process: children do not inherit it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ValueError(f"{path.parent} is in use by another process; expected it to end first") from error
    return file


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, whose files then replace those of ``folder`` one by one, each atomically.

    A model with a single weights file is thus complete at any moment, as its configuration never changes.
    """
    unfinished = folder.with_name(folder.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    folder.mkdir(exist_ok=True)
    fresh = {file.name for file in unfinished.iterdir()}
    for name in fresh:
        sync(unfinished / name)
        os.replace(unfinished / name, folder / name)
    for file in folder.iterdir():
        if file.name not in fresh:
            file.unlink()
    sync(folder)
    unfinished.rmdir()


def no_space(error: BaseException) -> bool:
    """Whether an exception says that a disk, a quota or a file-size limit is full.

    The operating system gives an error number, safetensors quotes it, PyTorch only reports a stream error.
    """
    text = str(error)
    return (
        getattr(error, "errno", None) in FULL
        or any(f"(os error {number})" in text for number in FULL)
        or (isinstance(error, RuntimeError) and any(part in text for part in BROKEN))
    )
