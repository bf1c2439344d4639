from pathlib import Path

import pytest
import torch

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.training.loop import Execution, Learner, train
from capfilt.models.training.settings import LoopSettings


class Line(Learner):
    """Learns that a linear layer of ones be zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, number: int) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(torch.ones(1, 2)).square().sum()}


class Judged(Line):
    judged_by = "validation"


def test_a_step_is_on_record_before_the_checkpoint_that_ends_it(tmp_path: Path) -> None:
    """A machine that goes on from what was kept with the checkpoint has the record of every step before it."""
    noted: list[float] = []
    kept: list[list[float]] = []
    execution = Execution(
        checkpoints=tmp_path,
        every=2,
        on_checkpoint=lambda: kept.append([*noted]),
        on_step=lambda record: noted.append(record["step"]),
    )
    train(Line(), LoopSettings(steps=5, lr=1e-3, warmup=1), execution)
    assert kept == [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5]]


def test_the_last_checkpoints_are_kept_and_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path) -> None:
    settings = LoopSettings(steps=6, lr=1e-3, warmup=1)
    unbroken, again = Line(), Line()
    again.load_state_dict(unbroken.state_dict())
    execution = Execution(checkpoints=tmp_path, every=2, keep=2)
    train(unbroken, settings, execution)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-000000004.pt", "checkpoint-000000006.pt"]
    last = tmp_path / names[1]
    last.write_bytes(last.read_bytes()[:100])
    steps: list[float] = []
    train(
        again,
        settings,
        Execution(checkpoints=tmp_path, every=2, on_step=lambda record: steps.append(record["step"])),
    )
    assert steps == [5, 6]
    assert torch.equal(again.layer.weight, unbroken.layer.weight)


def test_checkpoints_by_the_clock(tmp_path: Path) -> None:
    kept: list[int] = []
    execution = Execution(checkpoints=tmp_path, every=1000, minutes=0.0, on_checkpoint=lambda: kept.append(1))
    train(Line(), LoopSettings(steps=3, lr=1e-3, warmup=1), execution)
    assert len(kept) == 3


@pytest.mark.parametrize(
    ("found", "best"), [([3.0, 1.0, 2.0], 2), ([3.0, 2.0, 1.0], 3), ([1.0, 2.0, 1.01], 3)]
)
def test_the_best_state_by_validation_is_taken_if_the_last_is_clearly_worse(
    found: list[float], best: int, tmp_path: Path
) -> None:
    learner, weights = Judged(), []
    values = iter(found)

    def look() -> dict[str, float]:
        weights.append(learner.layer.weight.detach().clone())
        return {"validation": next(values)}

    train(learner, LoopSettings(steps=3, lr=1e-2, warmup=1, validate_every=1), Execution(), look)
    assert torch.equal(learner.layer.weight, weights[best - 1])


def test_parts_of_a_batch_must_be_even() -> None:
    with pytest.raises(TrainingError, match="so many parts"):
        LoopSettings(steps=1, lr=1e-3, batch=8, accumulate=3).rows  # noqa: B018 (what it raises is the test)
