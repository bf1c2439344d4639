"""The benchmark runs its shards on real Ray, and reads in a run's records what it says of them."""

import json
from pathlib import Path

import pytest

from benchmarks import overhead as benchmark


def test_a_tiny_run_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(benchmark, "WARM", 1.0)
    benchmark.main(["--shards", "6", "--sleep", "0.5", "--within", str(tmp_path), "--json"])
    (found,) = json.loads(capsys.readouterr().out)["no_ops"]
    assert found["recorded"] >= 0.5
    assert found["wall"] * found["workers"] >= 6 * 0.5
    assert found["worker_seconds_a_shard"] >= found["recorded"] - 0.5
    assert 0 < found["share_of_work"] < 1
    assert found["driver_cpu"] > 0
    assert found["below_cpu"] > 0


def test_a_finished_run_is_read(finished: Path, capsys: pytest.CaptureFixture[str]):
    benchmark.main(["--shards", "0", "--run", str(finished), "--workers", "2", "--json"])
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert 0 < found["seconds_of_work"] < 2 * found["wall"]
    assert found["shards"] > 20
    assert 0 < found["gap_a_shard"] < found["wall"]
