"""Compile the kernels once per machine and load them.

``$CXX``, or else ``c++``, ``g++`` or ``clang++``, is what ``torch.compile`` needs on a CPU too. The library lies in
``$XDG_CACHE_HOME/hf_semfocus`` (``~/.cache/hf_semfocus``) under a hash of the source, the compiler, its flags and the
processor, so that neither another version nor another machine of a shared home loads it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno")


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | str:
    """The compiled library, or why there is none."""
    if os.name != "posix":
        return f"no kernels for {platform.system()}; expected Linux or another POSIX system"
    asked = os.environ.get("CXX")
    compiler = next(filter(None, map(shutil.which, [asked] if asked else ["c++", "g++", "clang++"])), None)
    if compiler is None:
        return f"no C++ compiler: {asked or 'c++, g++ or clang++'} is not on the PATH"
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "no message").strip().splitlines()
        return f"{compiler} failed to compile the kernels: {lines[0]}"
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows where home is
        return f"the compiled kernels cannot be written or loaded: {error}"


def _compiled(compiler: str) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    parts = (SOURCE.read_text(encoding="utf-8"), version, " ".join(FLAGS), _processor())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hf_semfocus"
    library = folder / f"kernels-{digest}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, made = tempfile.mkstemp(dir=folder, suffix=".so")
        os.close(handle)
        try:
            subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", made], capture_output=True, text=True, check=True)
            os.replace(made, library)  # whole or not at all, whoever else compiles
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(made)
    return library


def _processor() -> str:
    """What ``-march=native`` depends on."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"
