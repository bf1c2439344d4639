"""The one training loop: AdamW, warm-up and cosine, clipping, checkpoints that a restart carries on from."""

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.training.distributed import ALONE, WorkerGroup
from capfilt.models.training.settings import LoopSettings
from capfilt.models.training.watchdog import Watch

Record = dict[str, float]
OnStep = Callable[[Record], None]
Validate = Callable[[], Record]

# Validation noise: an earlier state is taken for the better one only if it is better by more than this share.
BETTER = 0.02


@dataclass(frozen=True)
class Execution:
    """How a job runs; none of it changes what is learnt, except that sums depend on ``threads`` and on the number
    of workers in the last bit.

    ``checkpoints`` is a directory for the running job's states, the last ``keep`` of them, written every
    ``every`` steps or ``minutes``, whatever comes first, and removed by the caller once the model is saved;
    ``on_checkpoint`` is called after each. ``on_step`` gets each step's record: step, steps, loss, its parts,
    lr, grad_norm, seconds, and what validation found.
    """

    threads: int = 1
    device: str = "cpu"
    world: WorkerGroup = ALONE
    checkpoints: Path | None = None
    every: int = 200
    minutes: float = 10.0
    keep: int = 2
    on_checkpoint: Callable[[], None] | None = None
    on_step: OnStep | None = None


class Learner(nn.Module, ABC):
    """What a job trains: a call with a number gives the figures of that part of a step, `loss` among them.

    Everything a step depends on must be a function of the number or live in the state dict, so that a restart from
    a checkpoint gives what an unbroken run gives. ``watch`` judges the figures; ``judged_by`` names the one of
    validation by which the best state is known, if there is one.
    """

    judged_by = ""

    def __init__(self) -> None:
        super().__init__()
        self.watch = Watch()

    @abstractmethod
    def forward(self, number: int) -> dict[str, Tensor]: ...


def train(
    learner: Learner, settings: LoopSettings, execution: Execution, validate: Validate | None = None
) -> None:
    """Train ``learner`` in place; at the end it is in its best state by validation, if it is judged by that.

    Raises:
        TrainingError: a loss that is not finite, whatever the watch finds, a checkpoint of a job with other
            settings.
    """
    world = execution.world
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = _optimizer(parameters, settings)
    with _threads(execution.threads):
        states = _States(learner, optimizer, settings, execution)
        first = states.restore()
        wrapped = world.wrap(learner)
        learner.train()
        for step in range(first, settings.steps):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            optimizer.zero_grad(set_to_none=True)
            figures = _gradients(wrapped, settings, execution, step)
            record = {name: float(value) for name, value in figures.items()}
            if not math.isfinite(record["loss"]):
                raise _not_finite(step, record)
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
            optimizer.step()
            done = step + 1
            record |= {"step": done, "steps": settings.steps, "lr": learning_rate(settings, step)}
            record |= {"grad_norm": float(norm)}
            if validate and settings.looks(done):
                record |= _validated(learner, validate, world)
                states.judge(record)
            record["seconds"] = time.perf_counter() - began
            learner.watch(record)
            if execution.on_step:
                execution.on_step(record)
            # After the step's record: what a checkpoint has behind it does not run again.
            states.write_if_due(done)
        states.take_best()
        learner.eval()


def _optimizer(parameters: list[nn.Parameter], settings: LoopSettings) -> torch.optim.Optimizer:
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), eps=1e-8, fused=True)


def _gradients(
    learner: nn.Module, settings: LoopSettings, execution: Execution, step: int
) -> dict[str, Tensor]:
    """Go through a step's parts; the means of their figures, over all workers."""
    world, parts = execution.world, settings.accumulate
    sums: dict[str, Tensor] = {}
    for part in range(parts):
        number = step * parts + part
        torch.manual_seed((settings.seed * 1_000_003 + number) * world.size + world.rank)  # dropout
        last = part == parts - 1
        waiting = nullcontext() if last or world.size == 1 else learner.no_sync()  # type: ignore[operator]
        kind = torch.device(execution.device).type
        with waiting:
            with torch.autocast(kind, torch.bfloat16, enabled=settings.precision == "bf16"):
                figures = learner(number)
            (figures["loss"] / parts).backward()
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + world.average(value.float()) / parts
    return sums


def _validated(learner: Learner, validate: Validate, world: WorkerGroup) -> Record:
    """The first worker looks, for all."""
    learner.eval()
    with torch.no_grad():
        found: Record = world.share(validate() if world.first else None)
    learner.train()
    return found


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Linear warm-up, then half a cosine to zero at the last step."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))


class _States:
    """The states of a running job on disk: checkpoints to go on from, and the best one so far.

    The first worker writes; all read what it has.
    """

    def __init__(
        self,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        settings: LoopSettings,
        execution: Execution,
    ) -> None:
        self.learner, self.optimizer, self.settings, self.execution = learner, optimizer, settings, execution
        self.identity = {"job": type(settings).__name__, **asdict(settings)}
        self.best, self.last = math.inf, math.inf
        self.best_state: dict[str, Tensor] = {}
        self.written = time.monotonic()

    def restore(self) -> int:
        """Load the newest checkpoint that can be read; the step to go on with, 0 without one."""
        self.learner.to(self.execution.device)
        state = self.execution.world.share(self._newest() if self.execution.world.first else None)
        if state is None:
            return 0
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.last, self.best_state = state["best"], state["last"], state["best_state"]
        return int(state["step"])

    def _paths(self) -> list[Path]:
        folder = self.execution.checkpoints
        return sorted(folder.glob("checkpoint-*.pt")) if folder else []

    def _newest(self) -> dict[str, Any] | None:
        for path in reversed(self._paths()):
            try:
                state: dict[str, Any] = torch.load(
                    path, map_location=self.execution.device, weights_only=True
                )
                found = state["settings"]
            except (
                Exception
            ):  # torch raises many kinds for a file that is cut or damaged: the one before it serves
                path.unlink()
                continue
            if found != self.identity:
                raise TrainingError(
                    what="the training checkpoint does not belong to this job",
                    evidence=f"{path}: it was written with {found}",
                    remedy="remove it to start the training again",
                )
            return state
        return None

    def write_if_due(self, done: int) -> None:
        """Whole or not at all: a temporary file beside it, synced, then renamed."""
        folder, world = self.execution.checkpoints, self.execution.world
        minutes = (time.monotonic() - self.written) / 60
        due = done % self.execution.every == 0 or minutes >= self.execution.minutes
        if folder is None or not world.first or not (due or done == self.settings.steps):
            return
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".checkpoint-{os.getpid()}.tmp"
        state = {
            "settings": self.identity,
            "step": done,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "last": self.last,
            "best_state": self.best_state,
        }
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / f"checkpoint-{done:09d}.pt")
        for old in self._paths()[: -self.execution.keep]:
            old.unlink()
        self.written = time.monotonic()
        if self.execution.on_checkpoint:
            self.execution.on_checkpoint()

    def judge(self, record: Record) -> None:
        """Note how good the state is that validation has just looked at."""
        if not self.learner.judged_by:
            return
        self.last = record[self.learner.judged_by]
        if self.last < self.best:
            self.best = self.last
            self.best_state = {name: value.clone() for name, value in self.learner.state_dict().items()}

    def take_best(self) -> None:
        """The state that validation liked best, if it likes the last one clearly less."""
        if self.best_state and self.last > self.best * (1 + BETTER):
            self.learner.load_state_dict(self.best_state)


def _not_finite(step: int, figures: Record) -> TrainingError:
    parts = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    return TrainingError(
        what="the training loss is no longer a finite number",
        evidence=f"step {step + 1}: {parts}",
        remedy="lower lr; if it happens at the first step, look for damaged images or weights",
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
