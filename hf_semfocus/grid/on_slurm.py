"""Trainings as jobs of a Slurm cluster, through submitit.

Needs submitit, which comes with the extra ``hf_semfocus[sweep]``. All machines of the cluster have this package and
this Python at the same paths, and share the folder of the results.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..messages import brief
from . import process
from .executor import Executor
from .jobs import Job

WORKERS = 16
"""Jobs in the queue at a time by default."""
PATIENCE = 120.0
"""Seconds in which canceled jobs should end."""


@dataclass(frozen=True, kw_only=True)
class SlurmExecutor(Executor[Any]):
    """Runs jobs as jobs of Slurm, each on a processor of its own.

    One that its time limit ends saves its state, and goes on from there when it is tried again, which counts as one of
    the ``retries``. A kill of this process (SIGKILL, a closed terminal) leaves its jobs in the queue, where `scancel
    --name semfocus` ends them before the next start.

    Attributes:
        logs: folder for the files of submitit.
        minutes: time limit of a job.
        partition: where it is queued; None for the cluster's default.
        gpus: GPUs of a job.
        cluster: of submitit: "slurm", or "local" for processes of this machine, as a trial.
    """

    logs: Path
    minutes: int = 24 * 60
    partition: str | None = None
    gpus: int = 0
    cluster: str = "slurm"

    @contextmanager
    def connected(self) -> Iterator[int]:
        """See that there is a cluster.

        Raises:
            ImportError: submitit is not installed.
            ValueError: this machine cannot submit jobs to Slurm.
        """
        self._queue()
        import cloudpickle

        cloudpickle.register_pickle_by_value(process)  # a job need not import the whole package
        try:
            yield self.workers or WORKERS
        finally:
            cloudpickle.unregister_pickle_by_value(process)

    def start(self, job: Job) -> Any:
        """Submit a job.

        Raises:
            ValueError: Slurm refuses it.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        command = list(job.command), str(job.output.resolve()), str(Path.cwd())
        try:
            return self._queue().submit(process.perform, *command)
        except (FailedJobError, FailedSubmissionError) as error:
            raise ValueError(f"executor='slurm': {job.name} was refused: {brief(error)}") from error

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Those that have ended after a pause."""
        time.sleep(process.PAUSE)
        return [job for job in handles if job.done()]

    def status(self, handle: Any) -> int | str:
        """Exit status of a job's program, or what became of the job."""
        from submitit.core.utils import UncompletedJobError

        try:
            return handle.result()
        except UncompletedJobError as error:  # and FailedJobError, its subclass
            return brief(error)

    def stop(self, handles: Sequence[Any]) -> None:
        """Cancel all jobs, which ends their programs by a signal, then wait, at most ``PATIENCE`` seconds."""
        for job in handles:
            job.cancel()
        end = time.monotonic() + PATIENCE
        while left := [job.job_id for job in handles if not job.done(force_check=True)]:
            if time.monotonic() > end:
                print(f"canceled, but not known to have ended: jobs {', '.join(left)}", flush=True)
                break
            time.sleep(5 * process.PAUSE)

    def _queue(self) -> Any:
        try:
            import submitit
        except ImportError:
            raise ImportError("the executor slurm needs submitit; pip install 'hf_semfocus[sweep]'") from None
        try:
            queue = submitit.AutoExecutor(self.logs, cluster=self.cluster)
        except RuntimeError as error:
            raise ValueError(f"executor='slurm': {error}; expected a machine that has sbatch") from error
        queue.update_parameters(
            name="semfocus", timeout_min=self.minutes, cpus_per_task=1, gpus_per_node=self.gpus, nodes=1
        )
        if self.partition is not None:
            queue.update_parameters(slurm_partition=self.partition)
        return queue
