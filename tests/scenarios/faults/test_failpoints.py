"""SIGKILL at every step of the commit protocol, each time it is reached; then resume in a new process."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.ledger.index_store import RECORD
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.storage.failpoints import NAMES
from tests.scenarios.command import snapshot
from tests.scenarios.faults.bare import SHARDS, plan

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[3]
MEMORY = Path("/dev/shm")
KILLED = -9
PER_STAGE = (
    "batch",
    "ended",
)  # documented in `capfilt.pipeline.storage.failpoints`: one place for each stage
CI = ("part.published", "totals.after")
HIDDEN = {"_commits", "_rejects", "_stage.json"}
DESCRIBED = {name for names in SHARDS for name in names if not name.startswith("bad")}


class Nursery:
    """The process that forks bare ones."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, where: Path, failpoint: str = "", parent: Path | None = None) -> int:
        """The exit code of a process that runs the plan, or carries on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"run": str(where), "failpoint": failpoint, "parent": str(parent or "")}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.scenarios.faults.bare"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Nursery(process)
        finally:
            process.kill()


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: a killed process loses nothing of it, and a hundred runs wait for
    no disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def clean(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed."""
    run = tmp_path_factory.mktemp("clean") / "run"
    assert nursery.run(run) == 0
    return run


def rows(run: Path, stage: str) -> list[str]:
    """All rows that stand in a stage, sorted."""
    ledger = Ledger(run)
    parts = ledger.index(stage).held().values()
    return sorted(
        json.dumps(row, sort_keys=True)
        for name, sha256 in parts
        for row in pq.read_table(ledger.read(stage, name, sha256)).to_pylist()
    )


def sums(run: Path, stage: str) -> dict[str, Any]:
    totals = Ledger(run).totals(stage)
    assert totals is not None, f"{stage} is not closed"
    return totals.model_dump(exclude={"seconds"})


def began(run: Path) -> list[str]:
    diary = run.with_suffix(".diary")
    return diary.read_text().splitlines() if diary.exists() else []


def see_visible(run: Path) -> None:
    """Whatever is under a visible name can be read, and every part says in its footer what it is."""
    for stage in plan().nodes:
        for path in (run / stage).iterdir() if (run / stage).exists() else ():
            if path.name not in HIDDEN:
                assert re.fullmatch(r"part-[a-z0-9]+\.parquet", path.name), path
                assert pq.read_table(path).schema.metadata, path
                assert RECORD in pq.read_metadata(path).metadata, path
        for path in (run / stage / "_rejects").glob("*"):
            assert pq.read_table(path).num_rows, path


def see_whole(run: Path, clean: Path) -> None:
    """The run ended as the clean one did."""
    see_visible(run)
    for node in plan():
        stage, index = node.name, Ledger(run).index(node.name)
        assert rows(run, stage) == rows(clean, stage)
        assert sums(run, stage) == sums(clean, stage)
        assert sums(run, stage) == index.totals(stage, node.fingerprint).model_dump(exclude={"seconds"})
        assert not index.damaged
        visible = sorted(path.name for path in (run / stage).glob("*.parquet"))
        assert visible == sorted(index.table["name"].to_pylist())
        keys = pa.concat_tables([pq.read_table(run / stage / name) for name in visible])
        keys = keys.select(list(node.stage.produces.key))
        assert keys.group_by(keys.column_names).aggregate([]).num_rows == keys.num_rows, (
            "a key is there twice"
        )
        for part in index.parts().values():
            assert part.record is not None
            assert part.record.conserved
            if part.record.rejects:
                left = pq.read_table(run / stage / part.record.rejects).num_rows
                assert left == sum(part.record.rejected.values())
    assert Ledger(run).model_digest("learn") == Ledger(clean).model_digest("learn")
    assert not [path for path in run.rglob("_tmp/**/*") if path.is_file()]
    assert not (run / "_lease.json").exists()


def test_the_clean_run_is_what_the_walk_is_measured_by(clean: Path) -> None:
    see_whole(clean, clean)
    assert len(rows(clean, "describe")) == len(rows(clean, "judge")) == len(DESCRIBED)
    assert sums(clean, "describe")["rejected"] == {"empty_caption": 3}
    assert len(began(clean)) == len(set(began(clean))) == 2 * len(SHARDS) + 1


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.ci if name in CI else ()) for name in NAMES]
)
def test_killed_there_and_resumed(name: str, nursery: Nursery, clean: Path, tmp_path: Path) -> None:
    """The first time that the place is reached, the second, the third ... until a run does not reach it."""
    for count in range(1, 100):
        run = tmp_path / str(count) / "run"
        run.parent.mkdir()
        ended = nursery.run(run, f"{name}:{count}")
        if ended == 0:
            break
        assert ended == KILLED
        see_visible(run)
        before, begun = snapshot(run), began(run)
        assert nursery.run(run) == 0, f"the resume after {name}:{count} failed"
        see_whole(run, clean)
        assert before.items() <= snapshot(run).items(), "a committed part was written again"
        again = {line for line in began(run)[len(begun) :] if not line.startswith("learn")}
        done = {f"{stage} {part[5:-8]}" for stage, part in (path.split("/") for path in before)}
        assert not again & done, "a committed shard was worked on again"
    else:
        pytest.fail("it never comes to an end")
    assert count > 1, f"a run never reaches {name}"
    see_whole(run, clean)


def test_a_trained_model_that_stands_is_not_trained_again(
    nursery: Nursery, clean: Path, tmp_path: Path
) -> None:
    """Its worker closes the stage before the checkpoints go, so that a dying driver costs no training."""
    run = tmp_path / "run"
    assert nursery.run(run, "ended.learn") == KILLED
    assert began(run).count("learn ") == 1
    assert nursery.run(run) == 0
    assert began(run).count("learn ") == 1
    see_whole(run, clean)


@pytest.mark.ci
def test_a_run_that_is_killed_again_and_again_ends(nursery: Nursery, clean: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    deaths = 0
    for name in (*NAMES, *NAMES):
        ended = nursery.run(run, f"{name}:2")
        if ended == 0:
            break
        assert ended == KILLED
        see_visible(run)
        deaths += 1
    assert nursery.run(run) == 0
    assert deaths >= 3
    see_whole(run, clean)


@pytest.mark.parametrize("name", ["totals.after:2", "create.linked:1"])
def test_a_fork_that_is_killed_as_it_is_made_has_all_its_references_in_the_end(
    name: str, nursery: Nursery, clean: Path, tmp_path: Path
) -> None:
    fork = tmp_path / "fork"
    assert nursery.run(fork, name, parent=clean) == KILLED
    assert nursery.run(fork, parent=clean) == 0
    assert began(fork) == []
    assert not list(fork.rglob("part-*"))
    for stage in plan().nodes:
        assert rows(fork, stage) == rows(clean, stage)


def test_references_of_a_fork_that_never_was_do_not_reach_another_run_of_its_name(
    nursery: Nursery, clean: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert nursery.run(run, "totals.after:3", parent=clean) == KILLED
    assert nursery.run(run) == 0
    assert len(began(run)) == 2 * len(SHARDS) + 1
    see_whole(run, clean)


@pytest.mark.ci
def test_every_place_in_the_source_has_a_name_and_every_name_a_place() -> None:
    literals = {
        found
        for package in ("data_contracts", "models", "stages", "pipeline")
        for path in (ROOT / package).rglob("*.py")
        for found in re.findall(r"""\bfailpoint\(\s*(f?"[^"]*"|[^)"]*)""", path.read_text())
        if not found.startswith("name: str")
    }
    plain = {text[1:-1] for text in literals if text.startswith('"')}
    made = {text[2:].partition(".")[0] for text in literals if text.startswith('f"')}
    assert plain | {f'f"{name}' for name in made} == set(NAMES) | {f'f"{name}' for name in PER_STAGE}
    assert len(literals) == len(plain) + len(made), f"a place without a literal name: {literals}"
    assert len(set(NAMES)) == len(NAMES)
