"""A store or a disk that fails for a while, and one that goes on failing: the run waits, or says so and can go on."""

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from capfilt.data_contracts.errors import StorageError
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.storage import patience
from tests.pipeline.local import plan_of, run
from tests.scenarios.command import capfilt, difference, here, write_recipe
from tests.store import BUCKET, Store, Trouble, in_environment

pytestmark = pytest.mark.thorough

STAGES = ("list_web", "human", "ingest", "caption", "score", "select", "export")
BROKEN = ("GET", "HEAD", "PUT", "POST", "DELETE")


@pytest.fixture
def troubled(store_server: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with in_environment(store_server, through_proxy=True):
        yield store_server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS", 0.8)


def cloud(clean: Path, checkpoints: dict[str, Path]) -> Plan:
    return plan_of(clean, checkpoints, output=f"s3://{BUCKET}/{uuid.uuid4().hex}")


def standing(ledger: Ledger) -> dict[str, str]:
    """Every committed part with its digest."""
    return {
        f"{stage}/{name}": digest
        for stage in ledger.record().fingerprints
        for name, digest in ledger.index(stage).held().values()
    }


def sound(ledger: Ledger) -> None:
    """Nothing is visible but committed parts that can be read."""
    for stage in ledger.record().fingerprints:
        held = {name for name, _ in ledger.index(stage).held().values()}
        visible = {name for name, _ in ledger.storage.entries(stage) if name.startswith("part-")}
        assert visible == held
        for shard in ledger.index(stage).shards:
            part = ledger.index(stage).part(shard)
            ledger.read(stage, part.name, part.sha256)


# -- a store ------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_a_store_with_troubles_of_every_kind_gives_the_clean_run(
    troubled: Store, clean: Path, checkpoints: dict[str, Path]
):
    """Every kind of request fails a few times, before or after the store has carried it out."""
    plan = cloud(clean, checkpoints)
    kinds = [
        Trouble("PUT", 500, 2, path="caption/part-"),
        Trouble("PUT", 503, 2, path="score/part-", after=True),
        Trouble("PUT", 0, 2, path="select/part-", after=True),
        Trouble("PUT", 0, 2, path="_rejects/"),
        Trouble("PUT", 500, 2, path="_commits/", after=True),
        Trouble("PUT", 503, 1, path="_stage.json"),
        Trouble("PUT", 0, 1, path="run.json", after=True),
        Trouble("PUT", 0, 1, path="_lease.json", after=True),
        Trouble("GET", 503, 4, path="ingest/part-"),
        Trouble("GET", 500, 2, path="list-type=2"),
        Trouble("GET", 0, 2, path="score"),
        Trouble("HEAD", 503, 4),
        Trouble("POST", 0, 1, after=True),
    ]
    with troubled.trouble(*kinds):
        ledger = run(plan)
    assert not [trouble for trouble in kinds if not trouble.met]
    assert difference(ledger.url, clean / "run", STAGES) == ""
    sound(ledger)
    assert not [name for name in standing(ledger) if ".g1" in name]  # no try took its own file for another's
    assert not ledger.storage.tree("_quarantine")


@pytest.mark.parametrize(
    ("path", "after"),
    [("caption/part-0000001", False), ("select/_stage.json", True), ("score/_commits", False)],
)
def test_a_store_that_breaks_for_good_stops_the_run_and_a_later_resume_ends_it(
    troubled: Store, clean: Path, checkpoints: dict[str, Path], impatient: None, path: str, after: bool
):
    plan = cloud(clean, checkpoints)
    with (
        troubled.trouble(Trouble("PUT", 503, path=path, after=after)),
        pytest.raises(StorageError, match="storage of the run fails") as caught,
    ):
        run(plan)
    assert plan.recipe.run in str(caught.value)
    ledger = Ledger(plan.recipe.run)
    sound(ledger)
    before = standing(ledger)
    assert any(name.startswith("ingest/") for name in before)
    run(plan)
    assert difference(ledger.url, clean / "run", STAGES) == ""
    assert before.items() <= standing(ledger).items()


def test_a_run_on_ray_says_what_the_store_did_and_goes_on_when_it_is_well(
    store_server: Store, recipe: dict[str, Any], finished: Path, tmp_path: Path
):
    env = {**store_server.environment(through_proxy=True), "CAPFILT_STORAGE_PATIENCE": "2"}
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="stormy", output=f"s3://{BUCKET}/storm")
    passing = [Trouble("GET", 503, 3, path="ingest/part-"), Trouble("PUT", 0, 3, path="caption/", after=True)]
    lasting = Trouble("PUT", 500, path="score/part-0000005")
    with store_server.trouble(*passing, lasting):
        ended = capfilt("run", path, expect=1, **env)
    assert lasting.met > 1
    assert all(trouble.met == 3 for trouble in passing)
    assert "the storage of the run fails: s3://bucket/storm/stormy" in ended.err
    assert "500" in ended.err
    assert "capfilt resume s3://bucket/storm/stormy" in ended.err
    assert "Traceback" not in ended.err
    with in_environment(store_server):
        ledger = Ledger("s3://bucket/storm/stormy")
        sound(ledger)
        before = standing(ledger)
        assert "score/part-0000005.parquet" not in before
        states = {row["stage"]: row["state"] for row in json.loads(here("status", ledger.url, "--json").out)}
        assert states["ingest"] in ("done", "begun")
        capfilt("resume", ledger.url)
        assert before.items() <= standing(ledger).items()
        assert difference(ledger.url, finished, ("ingest", "caption", "score", "select", "export")) == ""
        assert "are whole" in here("verify", ledger.url).said


def test_looking_at_a_run_says_what_the_store_did(
    troubled: Store, clean: Path, checkpoints: dict[str, Path], impatient: None
):
    """The store dies before the index is read, or between the index and the rows."""
    plan = cloud(clean, checkpoints)
    run(plan)
    where = plan.recipe.run
    looks = {
        "status": "run.json",
        "inspect": "score/part-",
        "explain": "caption/part-",
        "verify": "_commits",
        "report": "export/part-",
    }
    rest = {"inspect": ("score",), "explain": ("0.png",)}
    for command, path in looks.items():
        with troubled.trouble(Trouble("GET", 503, path=path)):
            ended = here(command, where, *rest.get(command, ()), expect=1)
        assert "fails" in ended.err or "cannot be read" in ended.err, command
        assert "Traceback" not in ended.err


def test_no_store_at_all_is_said_before_anything_starts(recipe: dict[str, Any], tmp_path: Path):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, output="s3://bucket/runs")
    env = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1",
        "CAPFILT_STORAGE_PATIENCE": "1",
    }
    ended = capfilt("run", path, expect=1, **env)
    assert "the storage of the run fails: s3://bucket/runs/finished" in ended.err
    assert "credentials in the environment" in ended.err
    assert "Traceback" not in ended.err


# -- a disk -------------------------------------------------------------------------------------------------


def mend(disk: Path) -> None:
    """Make room, and mount it for writing."""
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    (disk / "ballast").unlink(missing_ok=True)


def fill(disk: Path) -> None:
    """Leave room for small files only."""
    (disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(disk).free - 4096))


def lock(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


@pytest.mark.parametrize(
    ("spoil", "said"), [(fill, "make room"), (lock, "mount it for writing")], ids=["full", "read-only"]
)
def test_a_disk_that_stays_so_stops_the_run_and_a_later_resume_ends_it(
    small_disk: Path,
    clean: Path,
    checkpoints: dict[str, Path],
    impatient: None,
    spoil: Callable[[Path], None],
    said: str,
):
    plan = plan_of(clean, checkpoints, output=str(small_disk))
    ledger = run(plan, until="caption")
    before = standing(ledger)
    spoil(small_disk)
    with pytest.raises(StorageError) as caught:
        run(plan)
    assert said in caught.value.remedy or "check the disk" in caught.value.remedy
    assert "capfilt resume" in str(caught.value)
    sound(ledger)
    mend(small_disk)
    run(plan)
    assert before.items() <= standing(ledger).items()
    assert difference(ledger.storage.path, clean / "run", STAGES) == ""  # type: ignore[attr-defined]
    assert not [path for path in ledger.storage.path.rglob("_tmp/**/*") if path.is_file()]  # type: ignore[attr-defined]


@pytest.mark.ci
def test_a_disk_that_gets_room_in_time_is_waited_for(
    small_disk: Path, clean: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    plan = plan_of(clean, checkpoints, output=str(small_disk))
    run(plan, until="ingest")
    fill(small_disk)
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            mend(small_disk)

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("tenacity.nap.time.sleep", sleep)
    ledger = run(plan)
    assert len(waited) >= 3
    assert difference(ledger.url, clean / "run", STAGES) == ""


@pytest.mark.ci
def test_a_full_disk_on_ray_ends_the_command_with_1_and_a_remedy(
    small_disk: Path, recipe: dict[str, Any], finished: Path, tmp_path: Path
):
    path = write_recipe(tmp_path / "recipe.yaml", recipe, name="tight", output=str(small_disk))
    capfilt("run", path, "--until", "ingest")
    fill(small_disk)
    ended = capfilt("run", path, expect=1, CAPFILT_STORAGE_PATIENCE="1")
    assert "No space left on device" in ended.err
    assert "make room" in ended.err
    assert f"capfilt resume {small_disk}/tight" in ended.err
    assert "Traceback" not in ended.err
    mend(small_disk)
    capfilt("resume", small_disk / "tight")
    assert (
        difference(small_disk / "tight", finished, ("ingest", "caption", "score", "select", "export")) == ""
    )
