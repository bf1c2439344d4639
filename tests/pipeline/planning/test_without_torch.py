"""What only plans runs where torch, transformers and tokenizers cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline.conftest import World

NOWHERE = "http://127.0.0.1:9"  # nobody answers there


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """An environment in which each of them is found first where it fails, as a build for another machine does."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("torch", "transformers", "tokenizers"):
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is broken here')\n")
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def capfilt(env: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "capfilt.pipeline.commands.cli", *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)


def said(env: dict[str, str], *words: object) -> str:
    ended = capfilt(env, *words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def recipe_of(world: World, **changes: Any) -> Path:
    path = world.folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**world.plan().recipe.plain(), **changes}))
    return path


def test_they_are_broken(broken: dict[str, str]) -> None:
    ended = subprocess.run([sys.executable, "-c", "import torch"], env=broken, capture_output=True, text=True)
    assert "torch is broken here" in ended.stderr


def test_plan_of_a_recipe_that_trains(world: World, broken: dict[str, str]) -> None:
    training: dict[str, Any] = {"warmup": {}, "pretrain": {}, "filter": {}, "captioner": {}}
    assert "captioner" in said(broken, "plan", recipe_of(world, models={"init": "tiny", **training}))


def test_plan_and_status_of_a_run_with_checkpoints(done: World, broken: dict[str, str]) -> None:
    assert "to run" not in said(broken, "plan", recipe_of(done))
    assert "export" in said(broken, "status", done.ledger.url)


def test_retry_failed(done: World, broken: dict[str, str]) -> None:
    assert "to be fetched again" in said(broken, "retry-failed", done.ledger.url)


def test_submit_gets_as_far_as_the_cluster(world: World, broken: dict[str, str]) -> None:
    ended = capfilt(broken, "submit", recipe_of(world), "--address", NOWHERE)
    assert ended.returncode == 1
    assert NOWHERE in ended.stderr
    assert "is broken here" not in ended.stderr


def test_doctor_names_it_and_goes_on(world: World, broken: dict[str, str]) -> None:
    ended = capfilt(broken, "doctor", recipe_of(world), "--address", NOWHERE)
    lines = {line.split()[1]: line for line in ended.stdout.splitlines() if line[:1].isalpha()}
    assert lines["torch"].startswith("fail")
    assert "torch is broken here" in lines["torch"]
    assert lines["recipe"].startswith("ok")
    assert lines["models.filter"].startswith("ok")
    assert lines["plan"].startswith("ok")
    assert lines["cluster"].startswith("fail")
