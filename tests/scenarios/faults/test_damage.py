"""Committed files that are altered, cut short or gone: found by verify, mended by resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.ledger.ledger import Ledger
from tests.scenarios.cluster import Head
from tests.scenarios.command import STAGES, capfilt, difference, here, snapshot, table, write_recipe

DEPENDENT = ("caption", "score", "select", "export")


def flip(path: Path) -> None:
    """One bit in the middle of the data; the footer and the size stay as they are."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def parse_recipe(run: Path) -> dict[str, Any]:
    return Ledger(run).record().recipe


def damaged(run: Path) -> dict[str, str]:
    """What verify finds, by file; its exit code says that there is something."""
    rows = json.loads(here("verify", run, "--json", expect=3).out)
    return {f"{row['stage']}/{row['name']}": row["problem"] for row in rows if row["problem"]}


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "finished"))


def test_flipped_and_cut_parts_are_found_and_only_their_shards_redone(head: Head, copy: Path, finished: Path):
    flip(copy / "caption" / "part-0000001.parquet")
    truncate(copy / "score" / "part-0000003.parquet")
    (copy / "select" / "part-0000005.parquet").unlink()
    before = snapshot(copy)
    found = damaged(copy)
    assert "caption/part-0000001.parquet" in found
    assert "score/part-0000003.parquet" in found
    assert "select/shard 0000005" in found
    assert snapshot(copy) == before

    said = capfilt("resume", copy, **head.env).said
    assert "set aside" in said
    for stage in STAGES:  # and whoever globs the rejects counts none twice
        own = {name for name in Ledger(copy).index(stage).table["rejects"].to_pylist() if name}
        assert {f"_rejects/{path.name}" for path in (copy / stage / "_rejects").glob("*")} == own
    assert "are whole" in here("verify", copy).said
    assert difference(copy, finished, STAGES) == ""

    after = snapshot(copy)
    redone = {part for part in after if after[part] != before.get(part)}
    reached = {"0000001": DEPENDENT, "0000003": DEPENDENT[1:], "0000005": DEPENDENT[2:]}
    expected = {
        f"{stage}/part-{shard}{generation}.parquet"
        for shard, stages in reached.items()
        for stage in stages
        for generation in ("", ".g1")
    }
    assert redone == expected - {"select/part-0000005.parquet"}  # gone: there is nothing to quarantine


def test_a_damaged_part_is_kept_aside_and_globs_still_open(head: Head, copy: Path, finished: Path):
    path = copy / "caption" / "part-0000002.parquet"
    truncate(path)
    broken = path.read_bytes()
    footer = copy / "ingest" / "part-0000004.parquet"
    footer.write_bytes(footer.read_bytes()[:-4] + b"XXXX")
    assert damaged(copy).keys() == {"caption/part-0000002.parquet", "ingest/part-0000004.parquet"}

    capfilt("resume", copy, **head.env)
    kept = {aside.name.rsplit("-", 1)[0]: aside.read_bytes() for aside in (copy / "_quarantine").iterdir()}
    assert kept["caption-part-0000002.parquet"] == broken
    assert "ingest-part-0000004.parquet" in kept
    assert pq.read_metadata(path).num_rows == 0
    for stage in STAGES:
        rows = duckdb.sql(f"SELECT count(*) FROM '{copy}/{stage}/*.parquet'").fetchall()
        assert rows == [(table(finished, stage).num_rows,)]
        assert len(pq.read_table(sorted((copy / stage).glob("*.parquet")))) == rows[0][0]
    assert difference(copy, finished, STAGES) == ""
    generations = {
        part.record.generation for part in Ledger(copy).index("caption").parts().values() if part.record
    }
    assert generations == {0, 1}


def test_a_damaged_index_costs_nothing(copy: Path):
    """`_commits` is derived: lost or broken, it is read again from the footers."""
    before = snapshot(copy)
    shutil.rmtree(copy / "caption" / "_commits")
    for entry in (copy / "score" / "_commits").iterdir():
        entry.write_text("{")
    (copy / "select" / "_stage.json").unlink()
    here("resume", copy)
    assert snapshot(copy) == before
    assert "are whole" in here("verify", copy).said


def test_a_fork_of_damaged_parts_says_whose_they_are(head: Head, copy: Path):
    """A fork does not mend its parent: it names the part, and resuming the parent does."""
    recipe = write_recipe(
        copy.parent / "recipe.yaml", parse_recipe(copy), output=str(copy.parent), select={"threshold": 0.6}
    )
    flip(copy / "score" / "part-0000001.parquet")
    ended = capfilt("run", recipe, "--fork", "strict", expect=3, **head.env)
    assert f"{copy}/score/part-0000001.parquet is damaged" in ended.said
    assert f"capfilt resume {copy}" in ended.said
