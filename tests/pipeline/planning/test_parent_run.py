"""A parent run's cleaned set, read for another run: whatever its export holds, and only what may be trained on."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from capfilt.data_contracts.errors import CapfiltError, SourceError
from capfilt.data_contracts.identity import image_id, pair_id
from capfilt.data_contracts.records import CleanedImage, CleanedPart
from capfilt.data_contracts.rejects import Reason
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.build import Plan
from capfilt.pipeline.planning.load import parse
from capfilt.pipeline.planning.parent_run import cleaned_of
from capfilt.pipeline.reports.query import files, query
from capfilt.stages.in_memory import MemoryInput
from capfilt.stages.stage import Rejected, Rows
from tests.pipeline.conftest import World
from tests.pipeline.local import run
from tests.stages.rows import site


def read(ledger: Ledger, scratch: Path) -> tuple[list[dict[str, Any]], list[Rejected]]:
    """Everything that another run would get of a parent, shard by shard, with every image accounted for."""
    listing, reading = cleaned_of(str(ledger.storage.path))
    where = site(scratch)
    kept, rejected = [], []
    for part in listing.run(where, MemoryInput({})):
        assert isinstance(part, Rows)
        inputs = MemoryInput({CleanedPart: [part.kept]}, str(part.shard))
        made = list(reading.open(where)(inputs))
        own = [row for rows in made for row in rows.kept.to_pylist()]
        left = [reject for rows in made for reject in rows.rejected]
        units = [unit for units in reading.units(inputs).values() for unit in units]
        assert sorted(units) == sorted([row["row_id"] for row in own] + [reject.id for reject in left])
        kept += own
        rejected += left
    return kept, rejected


@pytest.mark.parametrize("images", ["embed", "reference", "ids"])
def test_what_was_kept_is_read_with_its_bytes_texts_and_provenance(
    world: World, images: str, tmp_path: Path
) -> None:
    ledger = run(world.plan(export={"images": images}))
    kept, rejected = read(ledger, tmp_path)
    exported = {row["pair_id"]: row for row in query("SELECT * FROM files", files(ledger, "export"))}
    splits = {
        row["row_id"]: row["split"]
        for row in query("SELECT row_id, split FROM files", files(ledger, "human"))
    }
    wanted = {pair for pair, row in exported.items() if splits.get(row["row_id"], "train") == "train"}
    got: dict[str, tuple[str, str]] = {}
    for row in kept:
        assert image_id(row["image"]) == row["image_id"]
        assert (row["format"], row["parent"], set(row["rounds"])) == ("PNG", "run", {1})
        for text, source, pair in zip(row["texts"], row["sources"], row["pair_ids"], strict=True):
            assert pair_id(row["image_id"], text) == pair
            got[pair] = (row["row_id"], source)
    assert got == {pair: (exported[pair]["row_id"], exported[pair]["source"]) for pair in wanted}
    assert {source for _, source in got.values()} == {"web", "synthetic", "human"}
    held = {row for row, split in splits.items() if split != "train"}
    assert {reject.id for reject in rejected} == held
    assert {reject.reason for reject in rejected} == {Reason.HELD_OUT}


def test_a_fork_refers_to_its_parents_images(world: World, tmp_path: Path) -> None:
    parent = run(world.plan(export={"images": "reference"}))
    fork = run(
        world.plan(name="fork", export={"images": "reference"}, select={"threshold": 0.05}), parent=parent
    )
    assert fork.home("ingest").url == parent.url
    kept, _ = read(fork, tmp_path)
    assert {row["parent"] for row in kept} == {"fork"}
    assert len(kept) > len(read(parent, tmp_path)[0]) - 1


def test_identity_is_what_was_kept_not_where(world: World) -> None:
    one = run(world.plan())
    listing, reading = cleaned_of(str(one.storage.path))
    moved = Path(shutil.move(one.storage.path, world.folder / "elsewhere"))
    again, reading_again = cleaned_of(str(moved))
    assert (listing.digest, reading.homes) != (again.digest, reading_again.homes)
    assert listing.digest == again.digest
    other = run(world.plan(select={"threshold": 0.5, "rule": "best"}, name="other"))
    assert cleaned_of(str(other.storage.path))[0].digest != listing.digest


@pytest.mark.parametrize("images", ["reference", "ids"])
def test_images_that_are_gone_are_said_to_be(world: World, images: str, tmp_path: Path) -> None:
    ledger = run(world.plan(export={"images": images}))
    shutil.rmtree(ledger.storage.path / "ingest")
    with pytest.raises(SourceError, match="images or texts are gone") as caught:
        read(ledger, tmp_path)
    assert "whose export embeds its images needs its export alone" in caught.value.remedy


def test_an_export_that_embeds_needs_nothing_else(copied: Ledger, tmp_path: Path) -> None:
    whole = read(copied, tmp_path)[0]
    assert whole
    for stage in ("ingest", "human", "score", "caption"):
        shutil.rmtree(copied.storage.path / stage)
    assert read(copied, tmp_path)[0] == whole


def test_an_altered_part_and_a_lost_one_are_refused(copied: Ledger, tmp_path: Path) -> None:
    part = next((copied.storage.path / "export").glob("part-*.parquet"))
    data = bytearray(part.read_bytes())
    data[10] ^= 0xFF
    part.write_bytes(bytes(data))
    with pytest.raises(SourceError, match="cannot be read") as caught:
        read(copied, tmp_path)
    assert "instead of" in caught.value.evidence
    part.unlink()
    with pytest.raises(CapfiltError, match="has lost data"):
        cleaned_of(str(copied.storage.path))


def test_an_unfinished_run_is_refused(copied: Ledger) -> None:
    copied.reopen("export")
    with pytest.raises(CapfiltError, match="is not finished"):
        cleaned_of(str(copied.storage.path))


def plan_after(world: World, parent: str) -> Plan:
    """A plan whose models are trained from scratch, on the parent's cleaned set as well."""
    values = world.plan(name="child").recipe.plain()
    values["models"] = {
        "init": "tiny",
        "tokenizer": "wordpiece:60",
        "pretrain": {"steps": 2, "from_run": parent},
        "filter": {},
        "captioner": {},
    }
    return Plan(parse(values))


def test_it_joins_the_pretraining_of_another_run(world: World) -> None:
    parent = run(world.plan())
    plan = plan_after(world, str(parent.storage.path))
    assert plan.nodes["pretrain"].upstream == ("human", "ingest", "cleaned")
    child = run(plan, until="cleaned")
    rows = query("SELECT row_id, sources FROM files", files(child, "cleaned"))
    totals, exported = child.totals("cleaned"), parent.totals("export")
    assert totals is not None
    assert exported is not None
    assert totals.kept == len(rows) > 0
    assert set(totals.shards) == {f"c{shard}" for shard in exported.shards}
    assert {source for row in rows for source in row["sources"]} == {"web", "synthetic", "human"}
    moved = shutil.move(parent.storage.path, world.folder / "moved")
    again = plan_after(world, str(moved))
    assert [node.fingerprint for node in again] == [node.fingerprint for node in plan]
    assert CleanedImage in plan.nodes["pretrain"].stage.consumes
