"""A training on several workers, by Ray Train: it places them together and makes their process group."""

import os
import tempfile
from typing import Any

from capfilt.data_contracts.errors import CapfiltError
from capfilt.pipeline.execution.attempt import run_rank
from capfilt.pipeline.execution.heartbeat import Heartbeat
from capfilt.pipeline.execution.task import Task


def train_together(task: Task, progress: Any) -> None:
    """Have ``task.ranks`` workers do the task's work; progress goes to the board.

    Training goes on from the checkpoints of the stage, so a group that breaks is an attempt like any other: it
    fails as a whole, and the scheduler has the task tried again.

    Raises:
        CapfiltError: what a worker raised.
        RuntimeError: the group broke otherwise.
    """
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import ScalingConfig
    from ray.train.v2.api.exceptions import WorkerGroupError

    with tempfile.TemporaryDirectory(prefix="capfilt-train-") as folder:
        trainer = TorchTrainer(
            _rank,
            train_loop_config={"task": task, "progress": progress},
            scaling_config=ScalingConfig(
                num_workers=task.ranks,
                use_gpu=task.each.gpus > 0,
                resources_per_worker=task.each.asked,
                label_selector=dict(task.each.labels) or None,
            ),
            torch_config=TorchConfig(backend="nccl" if task.each.gpus else "gloo"),
            run_config=RunConfig(
                name=task.name, storage_path=folder, failure_config=FailureConfig(max_failures=0)
            ),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            failures = error.worker_failures
            for failure in failures.values():
                if cause := _own(failure):
                    raise cause from None
            said = (f"worker {rank}: {_last_line(failures[rank])}" for rank in sorted(failures))
            raise RuntimeError("the training group broke: " + "; ".join(said)) from error


def _own(error: BaseException | None) -> CapfiltError | None:
    """Capfilt's own error in what Ray Train made of it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, CapfiltError):
            return error
        seen.add(id(error))
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:300]


def _rank(config: dict[str, Any]) -> None:
    """Runs in every worker, in torch's process group."""
    from dataclasses import replace

    import ray.train
    from ray.train.torch import get_device

    os.chdir(os.sep)
    task: Task = config["task"]
    first = ray.train.get_context().get_world_rank() == 0

    def beat(heartbeat: Heartbeat) -> None:
        if first:
            config["progress"].beat.remote(task.label, heartbeat)

    run_rank(replace(task, device=str(get_device()) if task.each.gpus else "cpu"), beat)
