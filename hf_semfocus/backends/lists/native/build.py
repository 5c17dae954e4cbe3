"""Compile the kernels once per machine and load them.

The compiler is ``$CXX``, or else ``c++``, ``g++`` or ``clang++``, as for ``torch.compile`` on a CPU. The library is in
``$XDG_CACHE_HOME/hf_semfocus`` (``~/.cache/hf_semfocus``), or else in the folder for temporary files, under a hash of
the source, the compiler, its flags and the processor, so that no other version or machine loads it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

from .... import machine
from . import cache

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno")
FUNCTIONS = ("select_keys", "forward", "backward")
SECONDS = 300.0  # limit for the compiler, which takes about ten

TRIAL = """
import ctypes, sys
try:
    library = ctypes.CDLL(sys.argv[1])
    [getattr(library, name) for name in sys.argv[2:]]
except (AttributeError, OSError) as error:
    sys.exit(str(error))
"""


class MissingError(Exception):
    """There are no kernels; the message has the reason and a remedy."""


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | str:
    """The compiled library, or why there is none (with a remedy), which is also given as a warning."""
    try:
        return _load()
    except MissingError as error:
        warnings.warn(
            f"attention on the CPU goes without the compiled kernels, which is several times slower: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return str(error)


def _load() -> ctypes.CDLL:
    if os.name != "posix":
        raise MissingError(f"no kernels for {platform.system()}; expected Linux or another POSIX system")
    compiler = _compiler()
    key = _key(compiler)
    reasons = {}
    for folder in cache.folders():
        try:
            library = cache.find(folder, key) or cache.add(folder, key, partial(_compile, compiler))
            return ctypes.CDLL(str(library))
        except OSError as error:
            reasons[str(error)] = None
    raise MissingError(
        f"they cannot be made or loaded: {'; '.join(reasons)}. Expected a compiler that works (CXX names another one) "
        "and a folder that is the user's alone (XDG_CACHE_HOME names another one)"
    )


def _compiler() -> list[str]:
    """The compiler command with its own options."""
    asked = os.environ.get("CXX", "")
    try:
        commands = [shlex.split(asked)] if asked.strip() else [["c++"], ["g++"], ["clang++"]]
    except ValueError as error:
        raise MissingError(f"CXX={asked!r} cannot be read: {error}") from error
    for program, *options in commands:
        if (path := shutil.which(program)) is not None:
            return [path, *options]
    raise MissingError(
        f"no C++ compiler: {asked or 'c++, g++ or clang++'} is not on the PATH; install one (apt install g++, "
        "conda install cxx-compiler) or name one in CXX"
    )


def _key(compiler: Sequence[str]) -> str:
    try:
        version = _output([*compiler, "--version"])
    except OSError as error:
        raise MissingError(f"{compiler[0]} does not run: {error}; name another C++ compiler in CXX") from error
    parts = (SOURCE.read_text(encoding="utf-8"), version, " ".join((*compiler[1:], *FLAGS)), machine.flags())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: Sequence[str], library: Path) -> None:
    """Compile, and load the library in another process first, where a crash does no harm."""
    try:
        _output([*compiler, *FLAGS, str(SOURCE), "-o", str(library)])
    except OSError as error:
        raise OSError(f"{compiler[0]} failed to compile the kernels: {error}") from error
    if sys.executable:
        try:
            _output([sys.executable, "-I", "-S", "-c", TRIAL, str(library), *FUNCTIONS])
        except OSError as error:
            raise OSError(f"what {compiler[0]} has compiled cannot be loaded: {error}") from error


def _output(command: Sequence[str]) -> str:
    """The output of a command, which is killed with its children on a timeout or an interruption.

    Raises:
        OSError: it cannot be run, fails or hangs; with the first line of its output.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C"},
    ) as process:
        try:
            output, errors = process.communicate(timeout=SECONDS)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise OSError(f"no end within {SECONDS:g} seconds") from error
    if process.returncode:
        lines = errors.strip().splitlines() or ["no message"]
        raise OSError(f"{lines[0]} (status {process.returncode})")
    return output
