"""The one training loop: AdamW, warm-up and cosine, clipping, checkpoints that a restart carries on from."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_contracts.errors import TrainingError

Record = dict[str, float]
OnStep = Callable[[Record], None]


@dataclass(frozen=True)
class LoopSettings:
    """What every job has. BLIP's optimizer (section 4.1); rates for training a tiny model from scratch.

    ``batch`` pairs a step; ``lr`` after ``warmup`` linear steps, then a cosine to zero; ``crop`` is the
    smallest share of an image's area that augmentation keeps; ``flip`` mirrors half of the images, off by
    default because captions that say left or right would become false; ``seed`` orders pairs and draws crops
    and negatives.
    """

    steps: int
    lr: float
    batch: int = 64
    warmup: int = 50
    weight_decay: float = 0.05
    clip: float = 1.0
    crop: float = 0.8
    flip: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Execution:
    """How a job runs; none of it changes what is learnt, except that sums depend on ``threads`` in the last
    bit.

    ``checkpoints`` is a directory for the running job's state, written every ``checkpoint_every`` steps and
    removed by the caller once the model is saved; ``on_checkpoint`` is called after each. ``on_step`` gets each
    step's record: step, steps, loss, its parts, lr, grad_norm, seconds.
    """

    threads: int = 1
    device: str = "cpu"
    checkpoints: Path | None = None
    checkpoint_every: int = 200
    on_checkpoint: Callable[[], None] | None = None
    on_step: OnStep | None = None


def train(
    learner: nn.Module,
    losses: Callable[[int], dict[str, Tensor]],
    settings: LoopSettings,
    execution: Execution,
) -> None:
    """Train ``learner`` in place: at each step ``losses(step)`` gives ``loss`` and figures to record beside
    it.

    Everything a step depends on must be a function of the step or live in ``learner``'s state dict, so that a
    restart from a checkpoint gives what an unbroken run gives. Raises :class:`TrainingError` for a loss that
    is not finite, or a checkpoint of a job with other settings.
    """
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), eps=1e-8, fused=True)
    with _threads(execution.threads):
        first = _restore(learner, optimizer, settings, execution)
        learner.train()
        for step in range(first, settings.steps):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout
            figures = losses(step)
            loss = figures["loss"]
            if not math.isfinite(loss.item()):
                raise _not_finite(step, figures)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
            optimizer.step()
            done = step + 1
            if execution.on_step:
                record = {name: float(value.detach()) for name, value in figures.items()}
                record |= {"step": done, "steps": settings.steps, "lr": learning_rate(settings, step)}
                record |= {"grad_norm": float(norm), "seconds": time.perf_counter() - began}
                execution.on_step(record)
            # After the step's record: what a checkpoint has behind it does not run again.
            if execution.checkpoints and (done % execution.checkpoint_every == 0 or done == settings.steps):
                _write(execution.checkpoints, learner, optimizer, settings, done)
                if execution.on_checkpoint:
                    execution.on_checkpoint()
        learner.eval()


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Linear warm-up, then half a cosine to zero at the last step."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))


def _checkpoint(directory: Path) -> Path:
    return directory / "checkpoint.pt"


def _write(
    directory: Path, learner: nn.Module, optimizer: torch.optim.Optimizer, settings: LoopSettings, done: int
) -> None:
    """Whole or not at all: a temporary file beside it, synced, then renamed over the last one."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".checkpoint-{os.getpid()}.tmp"
    state = {
        "settings": _identity(settings),
        "step": done,
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, _checkpoint(directory))


def _restore(
    learner: nn.Module, optimizer: torch.optim.Optimizer, settings: LoopSettings, execution: Execution
) -> int:
    """Load the last checkpoint, if there is one; returns the step to go on with."""
    learner.to(execution.device)
    if execution.checkpoints is None or not (path := _checkpoint(execution.checkpoints)).exists():
        return 0
    try:
        state: dict[str, Any] = torch.load(path, map_location=execution.device, weights_only=True)
        if state["settings"] != _identity(settings):
            raise ValueError(f"it was written with {state['settings']}")
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # torch raises many kinds for a file that is not ours
        raise TrainingError(
            what="the training checkpoint does not belong to this job",
            evidence=f"{path}: {error}",
            remedy="remove it to start the training again",
        ) from error
    return int(state["step"])


def _identity(settings: LoopSettings) -> dict[str, Any]:
    return {"job": type(settings).__name__, **asdict(settings)}


def _not_finite(step: int, figures: dict[str, Tensor]) -> TrainingError:
    parts = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in figures.items())
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
