"""A training whose process is killed goes on from its last checkpoint and ends where an undisturbed one does."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.training.data import PairSource
from capfilt.models.training.jobs import finetune_captioner, finetune_filter, pretrain
from capfilt.models.training.loop import Execution
from capfilt.models.training.pairs import PairSet
from capfilt.models.training.settings import CaptionerSettings, FilterSettings, PretrainSettings
from tests.models.training.conftest import few, small_model

QUICK = {"steps": 8, "warmup": 2, "batch": 8, "validate_every": 2}
JOBS: dict[str, Callable[..., None]] = {
    "pretrain": lambda m, t, p, run: pretrain(
        m, t, p, [PairSource(p, 1.0)], PretrainSettings(itm_latest=0.3, queue=16, **QUICK), run, few(p)
    ),
    "filter": lambda m, t, p, run: finetune_filter(
        m, t, p, (), FilterSettings(accumulate=2, **QUICK), run, few(p)
    ),
    "captioner": lambda m, t, p, run: finetune_captioner(
        m, t, p, (), CaptionerSettings(**QUICK), run, few(p)
    ),
}
KILLS = (1, 3, 4, 7)  # before the first checkpoint, between two, in the step after one, in the last but one


def attempt(name: str, kill: int | None, folder: Path, tokenizer: CaptionTokenizer, pairs: PairSet) -> None:
    """Train; at step ``kill`` the process dies on the spot, after the step and before its record is out."""
    torch.set_num_threads(1)
    model = small_model(
        tokenizer
    )  # made here: a model that is sent lies in memory that both processes write to

    def on_step(record: dict[str, float]) -> None:
        if record["step"] == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        with (folder / "losses").open("a") as losses:
            losses.write(f"{int(record['step'])} {record['loss']!r}\n")

    JOBS[name](model, tokenizer, pairs, Execution(checkpoints=folder, every=2, on_step=on_step))
    torch.save(model.state_dict(), folder / "weights")


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_several_points(
    name: str, tokenizer: CaptionTokenizer, pairs: PairSet, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["capfilt.models.training.jobs"])
    ends = {}
    for folder, kills in ((tmp_path / "undisturbed", ()), (tmp_path / "killed", KILLS)):
        folder.mkdir()
        for kill in (*kills, None):
            child = context.Process(target=attempt, args=(name, kill, folder, tokenizer, pairs))
            child.start()
            child.join(120)
            assert child.exitcode == (0 if kill is None else -signal.SIGKILL)
        losses = dict(line.split() for line in (folder / "losses").read_text().splitlines())
        ends[folder.name] = losses, torch.load(folder / "weights")
    losses, weights = ends["undisturbed"]
    assert len(losses) == 8
    assert ends["killed"][0] == losses
    assert all(torch.equal(value, ends["killed"][1][key]) for key, value in weights.items())
