"""Trainings on a Ray cluster: one of this machine, or one that is running.

Needs Ray, which comes with the extra ``hf_semfocus[sweep]``. All machines of a cluster have this package and this
Python at the same paths, and share the folder of the results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import process
from .executor import Executor
from .jobs import Job


@dataclass(frozen=True, kw_only=True)
class RayExecutor(Executor[Any]):
    """Runs jobs as tasks of a Ray cluster.

    Ray itself starts a task again whose machine is lost; a program that fails is up to ``retries`` alone.

    Attributes:
        address: of a running cluster; None starts one on this machine, with a processor per worker.
        gpus: GPUs of a job; a share such as 0.25 lets four have one together.
    """

    address: str | None = None
    gpus: float = 0.0

    @contextmanager
    def connected(self) -> Iterator[int]:
        """Hold a connection to the cluster.

        Raises:
            ImportError: Ray is not installed.
            ValueError: there is no cluster at the address, or it has too few GPUs.
        """
        ray = _ray()
        own = {"num_cpus": self.workers, "include_dashboard": False} if self.address is None else {}
        try:
            ray.init(self.address or "local", log_to_driver=False, logging_level="error", **own)
        except (ConnectionError, ValueError, ray.exceptions.AuthenticationError) as error:
            raise ValueError(f"address={self.address!r}: {error}") from error
        ray.cloudpickle.register_pickle_by_value(process)  # a worker need not import the whole package
        try:
            has = ray.cluster_resources()
            if has.get("GPU", 0) < self.gpus:
                raise ValueError(f"gpus={self.gpus}; the cluster has {has.get('GPU', 0):g}")
            yield self.workers or max(1, int(has.get("CPU", 1)))
        finally:
            ray.cloudpickle.unregister_pickle_by_value(process)
            ray.shutdown()

    def start(self, job: Job) -> Any:
        """Submit a task."""
        task = _ray().remote(num_cpus=1, num_gpus=self.gpus, max_retries=self.retries)(process.perform)
        return task.remote(list(job.command), str(job.output.resolve()), str(Path.cwd()))

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Those that end within a pause."""
        return _ray().wait(list(handles), num_returns=len(handles), timeout=process.PAUSE)[0] if handles else []

    def status(self, handle: Any) -> int | str:
        """Exit status of a task, or Ray's error."""
        ray = _ray()
        try:
            return ray.get(handle)
        except ray.exceptions.RayError as error:
            return str(error)

    def stop(self, handles: Sequence[Any]) -> None:
        """Cancel all tasks, which ends their programs by SIGTERM, then wait."""
        ray = _ray()
        for task in handles:
            ray.cancel(task)
        if handles:
            ray.wait(list(handles), num_returns=len(handles))


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ImportError("the executor ray needs Ray; pip install 'hf_semfocus[sweep]'") from None
    return ray
