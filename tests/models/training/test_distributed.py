"""Several workers learn what one learns: real processes in a process group of torch's."""

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.training.data import PairSource
from capfilt.models.training.distributed import WorkerGroup
from capfilt.models.training.jobs import finetune_captioner, finetune_filter, pretrain, warm_up
from capfilt.models.training.loop import Execution
from capfilt.models.training.pairs import PairSet
from capfilt.models.training.settings import (
    CaptionerSettings,
    FilterSettings,
    PretrainSettings,
    WarmupSettings,
)
from tests.models.training.conftest import few, small_model

QUICK = {"steps": 6, "warmup": 2, "batch": 8, "lr": 1e-4}
JOBS: dict[str, Callable[..., object]] = {
    "warmup": lambda m, t, p, run: warm_up(m, t, p, WarmupSettings(**QUICK), run),
    "pretrain": lambda m, t, p, run: pretrain(
        m, t, p, [PairSource(p, 1.0)], PretrainSettings(itm_latest=0.3, itm_from=2, **QUICK), run, few(p)
    ),
    "queue": lambda m, t, p, run: pretrain(
        m, t, p, (), PretrainSettings(itm_latest=0.3, queue=16, accumulate=2, **QUICK), run
    ),
    "filter": lambda m, t, p, run: finetune_filter(
        m, t, p, (), FilterSettings(edits=True, **QUICK), run, few(p)
    ),
    "captioner": lambda m, t, p, run: finetune_captioner(m, t, p, (), CaptionerSettings(**QUICK), run),
}


def work(rank: int, port: int, folder: Path, model: Med, tokenizer: CaptionTokenizer, pairs: PairSet) -> None:
    """One worker: every job from the same model, its curve and the weights it ends with left in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for name, job in JOBS.items():
        learner, curve = Med(model.config), []
        learner.load_state_dict(model.state_dict())
        job(learner, tokenizer, pairs, Execution(world=WorkerGroup.here(), on_step=curve.append))
        torch.save((curve, learner.state_dict()), folder / f"{name}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def curves(pairs: PairSet, tokenizer: CaptionTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    model = small_model(tokenizer)
    model.config = replace(model.config, dropout=0.0)
    model = Med(model.config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(work, (port, folder, model, tokenizer, pairs), nprocs=2)
    torch.save(model.state_dict(), folder / "start.pt")
    torch.save(model.config, folder / "config.pt")
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_two_workers_learn_what_one_learns(
    name: str, curves: Path, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    model = Med(torch.load(curves / "config.pt", weights_only=False))
    model.load_state_dict(torch.load(curves / "start.pt"))
    alone: list[dict[str, float]] = []
    JOBS[name](model, tokenizer, pairs, Execution(on_step=alone.append))
    (curve, first), (_, second) = (torch.load(curves / f"{name}-{rank}.pt") for rank in (0, 1))
    assert len(curve) == len(alone) == 6
    for ours, theirs in zip(curve, alone, strict=True):
        assert ours.keys() == theirs.keys()
        for figure in ours.keys() - {"seconds"}:
            assert ours[figure] == pytest.approx(theirs[figure], rel=2e-3, abs=2e-3), figure
    for key, value in model.state_dict().items():
        assert torch.equal(first[key], second[key])
        assert torch.allclose(first[key].double(), value.double(), atol=5e-3), key


def test_a_batch_that_cannot_be_shared_out(model: Med, tokenizer: CaptionTokenizer, pairs: PairSet) -> None:
    three = Execution(world=WorkerGroup(0, 3))
    with pytest.raises(TrainingError, match="shared out evenly"):
        finetune_captioner(model, tokenizer, pairs, (), CaptionerSettings(**QUICK), three)
