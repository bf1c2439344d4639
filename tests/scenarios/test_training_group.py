"""A training that several workers share, by Ray Train, and the death of one of them."""

import os
import signal
import time
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from tests.scenarios.command import capfilt, table, write_recipe
from tests.scenarios.test_from_scratch import write_colours

pytestmark = pytest.mark.thorough


def recipe(folder: Path, **changes: Any) -> Path:
    write_colours(folder / "human", 120, 1, noise=0.0)
    write_colours(folder / "web", 40, 2, noise=0.5)
    together = {"actors": 2, "threads": 1, "checkpoint_steps": 10}
    values = {
        "name": "shared",
        "human": {"format": "folder", "path": "human"},
        "web": {"format": "folder", "path": "web"},
        "models": {
            "init": "tiny",
            "tokenizer": "wordpiece:300",
            "pretrain": {"batch": 16, "lr": 1e-3, "warmup": 5, "steps": 80},
            "filter": {"batch": 16, "steps": 5},
            "captioner": {"batch": 16, "steps": 5},
        },
        "select": {"threshold": 0.5},
        "placement": {"pretrain": together, **changes},
    }
    return write_recipe(folder / "recipe.yaml", values)


def ranks() -> list[int]:
    """The processes of Ray Train's workers on this machine."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any("RayTrainWorker" in word for word in process.info["cmdline"] or ())
    ]


@pytest.mark.ci
def test_a_worker_that_is_killed_costs_what_was_done_since_the_last_checkpoint(
    head: Any, tmp_path: Path
) -> None:
    path = recipe(tmp_path)
    run = tmp_path / "runs" / "shared"
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not killed:
            if list(run.glob("_tmp/lasting/pretrain-*/checkpoint-*.pt")) and (found := ranks()):
                os.kill(found[-1], signal.SIGKILL)
                killed.append(found[-1])
            time.sleep(0.05)

    killer = Thread(target=kill)
    killer.start()
    capfilt("run", path, "--until", "pretrain", **head.env)
    killer.join()
    assert killed
    curve = table(run, "pretrain")
    assert curve["step"].to_pylist() == list(range(1, 81))
    assert curve["loss"].to_pylist()[-1] < curve["loss"].to_pylist()[0]
    assert (run / "models/pretrain/model.safetensors").is_file()


def test_workers_that_no_cluster_has_room_for_are_refused(head: Any, tmp_path: Path) -> None:
    path = recipe(tmp_path, pretrain={"actors": 64, "threads": 1})
    ended = capfilt("run", path, "--until", "pretrain", expect=1, **head.env)
    assert "has no room for pretrain: 64 workers" in ended.err
    assert "Traceback" not in ended.err
