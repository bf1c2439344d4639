from pathlib import Path

import torch

from models.training.loop import Execution, LoopSettings, train


def test_a_step_is_on_record_before_the_checkpoint_that_ends_it(tmp_path: Path):
    """A machine that goes on from what was kept with the checkpoint has the record of every step before it."""
    learner = torch.nn.Linear(2, 1)
    noted: list[float] = []
    kept: list[list[float]] = []
    train(
        learner,
        lambda step: {"loss": learner(torch.ones(1, 2)).square().sum()},
        LoopSettings(steps=5, lr=1e-3, warmup=1),
        Execution(
            checkpoints=tmp_path,
            checkpoint_every=2,
            on_checkpoint=lambda: kept.append([*noted]),
            on_step=lambda record: noted.append(record["step"]),
        ),
    )
    assert kept == [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5]]
