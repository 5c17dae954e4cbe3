"""Processes that run a recipe and suffer a fault at a moment that is chosen to the call, with real signals.

They are forked from a server that has imported everything, so that one costs no more than what it computes.
"""

import errno
import gc
import importlib
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import datasets
import recipe
import torch
from conftest import PATIENCE

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["faults", "evaluate", "transformers.models.llama"])


@dataclass(frozen=True)
class Strike:
    """Before a call of a function, counted from 1, ``blow`` is called with its arguments.

    Attributes:
        where: the function as module:name or module:class.name, where its caller looks it up.
        call: which call.
        blow: what happens.
    """

    where: str
    call: int
    blow: Callable[..., Any]

    def __call__(self):
        module, path = self.where.split(":")
        *owners, name = path.split(".")
        owner = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        function, calls = getattr(owner, name), 0

        @wraps(function)
        def struck(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == self.call:
                self.blow(*args, **kwargs)
            return function(*args, **kwargs)

        setattr(owner, name, struck)


def kill(*args, **kwargs):
    os.killpg(0, signal.SIGKILL)


def kill_while_writing(content, path):
    Path(path).write_bytes(b"PK" * 100)
    os.killpg(0, signal.SIGKILL)


def terminate(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_twice(*args, **kwargs):
    interrupt()
    interrupt()


def launched():
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"


def lose_launcher(*args, **kwargs):
    os.getppid = lambda: 1


def limit(*args, **kwargs):
    """No file may become larger than what is printed."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def write_to_full_disk(content, path):
    Path(path).symlink_to("/dev/full")


def fill(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def spoil(accelerator, model, *args):
    """No embedding is a number any more."""
    next(model.parameters()).data.fill_(float("nan"))


def halt(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGSTOP)


def draw_curves():
    """Let reports draw what :func:`_live` leaves out."""
    del sys.modules["matplotlib.figure"]


def on_rank(rank, fault):
    if os.environ["RANK"] == str(rank):
        fault()


class Life:
    """One or more processes that run ``recipes/<name>.py`` together; what they print is kept.

    Args:
        name: of the recipe.
        args: its arguments.
        *faults: called in each process before it starts, such as strikes.
        world: number of processes.
    """

    def __init__(self, name, args, *faults, world=1, log):
        self.out, self.err = Path(f"{log}.out"), Path(f"{log}.err")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        cache = datasets.config.HF_DATASETS_CACHE
        self.processes = []
        for rank in range(world):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
            given = name, list(map(str, args)), faults, place if world > 1 else {}, str(self.out), str(self.err), cache
            self.processes.append(SERVER.Process(target=_live, args=given))
        for process in self.processes:
            process.start()

    def end(self):
        """Wait for the end; the exit status of every process, or minus the signal that killed it."""
        for process in self.processes:
            process.join(PATIENCE)
        return [process.exitcode for process in self.processes]

    def state(self):
        """Letter for what the first process does, T for stopped."""
        return Path(f"/proc/{self.processes[0].pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    @property
    def printed(self):
        return self.out.read_text()

    @property
    def errors(self):
        """The lines on stderr, without progress bars."""
        lines = self.err.read_text().split("\n")
        return [line for line in lines if line and "\r" not in line and not line.startswith("Generating")]


def _live(name, args, faults, place, out, err, cache):
    os.setsid()
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.update({key: str(value) for key, value in place.items()})
    torch.set_num_threads(1)
    gc.freeze()  # of what was imported there is nothing to collect
    sys.modules["matplotlib.figure"] = None  # curves take longer than the training
    datasets.config.HF_DATASETS_CACHE = cache
    for fault in faults:
        fault()
    path = str(recipe.ROOT / "recipes" / f"{name}.py")
    sys.argv = [path, *args]
    runpy.run_path(path, run_name="__main__")
