"""A run as Python sees it."""

import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

import capfilt
from capfilt.data_contracts.contract import Contract
from capfilt.data_contracts.errors import SourceError, StorageError, UsageError
from capfilt.data_contracts.records import Caption, CleanPair, Score
from capfilt.data_contracts.rejects import Reject
from capfilt.models.images.decode import decode
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import report
from tests.pipeline.conftest import World
from tests.pipeline.local import HUMAN, WEB, run
from tests.stages.rows import png


@pytest.fixture(scope="module")
def opened(finished: Ledger) -> capfilt.Run:
    return capfilt.open_run(finished.storage.url)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a run"):
        capfilt.open_run(tmp_path)


def test_what_it_is(opened: capfilt.Run, finished: Ledger) -> None:
    assert opened.url == finished.url
    assert opened.name == "run"
    assert opened.recipe["select"]["threshold"] == 0.5
    assert opened.complete
    assert finished.url in repr(opened)


def test_its_stages_are_a_list_and_a_table(opened: capfilt.Run) -> None:
    stages = opened.stages
    assert [stage.name for stage in stages][:2] == ["list_web", "list_human"]
    assert all(stage.complete for stage in stages)
    ingest = stages["ingest"]
    assert (ingest.units_in, ingest.kept) == (WEB + 1, WEB)
    assert sum(ingest.rejected.values()) == 1
    assert stages[0].name == "list_web"
    assert len(stages[:3]) == 3
    (line,) = (line.split() for line in repr(stages).splitlines() if line.startswith("ingest "))
    assert line == ["ingest", "yes", str(WEB), "1"]
    with pytest.raises(KeyError):
        stages["nope"]


def test_a_table_has_the_schema_of_its_contract(opened: capfilt.Run) -> None:
    for stage, record in (("caption", Caption), ("score", Score), ("export", CleanPair)):
        rows = opened.table(stage)
        assert rows.num_rows == opened.stages[stage].kept
        assert rows.schema.equals(Contract(record).schema, check_metadata=False)
        Contract(record).check(rows)


def test_a_table_of_some_columns_in_their_order(opened: capfilt.Run) -> None:
    rows = opened.table("score", columns=["itm", "row_id"])
    assert rows.column_names == ["itm", "row_id"]
    assert rows["itm"].to_pylist() == opened.table("score")["itm"].to_pylist()


@pytest.mark.parametrize("stage", ["score", "placeholders"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(opened: capfilt.Run, stage: str) -> None:
    with pytest.raises(UsageError, match="itn") as caught:
        opened.table(stage, columns=["itn"])
    assert "the columns: " in caught.value.evidence


def test_a_stage_that_is_not_there_is_named_with_those_that_are(opened: capfilt.Run) -> None:
    for ask in (opened.table, opened.rejects):
        with pytest.raises(SourceError, match="no stage 'scores'") as caught:
            ask("scores")
        assert "score, select" in caught.value.evidence


def test_rejects_are_rows_of_their_contract(opened: capfilt.Run) -> None:
    left = opened.rejects("ingest")
    assert left.num_rows == 1
    assert left.schema.equals(Contract(Reject).schema, check_metadata=False)
    assert opened.rejects("list_human").num_rows == 0
    assert opened.rejects("list_human").schema.equals(Contract(Reject).schema)


def test_a_stage_without_parts_is_an_empty_table(world: World) -> None:
    run(world.plan(), until="ingest")
    begun = capfilt.open_run(world.folder / "run")
    assert not begun.complete
    assert begun.table("score").schema.equals(Contract(Score).schema)
    assert begun.table("score", columns=["itm"]).column_names == ["itm"]
    assert begun.query("SELECT count(*) AS n FROM score JOIN score_rejects USING (row_id)")[
        "n"
    ].to_pylist() == [0]


def test_a_query_over_stages_and_rejects(opened: capfilt.Run) -> None:
    means = opened.query("SELECT source, avg(itm) AS itm FROM score GROUP BY 1 ORDER BY 1")
    score = opened.table("score")
    web = score.filter(pc.equal(score["source"], "web"))
    assert means["source"].to_pylist() == ["synthetic", "web"]
    assert means["itm"].to_pylist()[1] == pytest.approx(pc.mean(web["itm"]).as_py())
    left = opened.query(
        "SELECT reason, count(*) AS n FROM select_rejects WHERE stage = ? GROUP BY 1", ["select"]
    )
    assert sum(left["n"].to_pylist()) == opened.rejects("select").num_rows > 0
    joined = opened.query('SELECT i.url, s.text FROM "ingest" i JOIN Score s USING (row_id)')
    assert joined.num_rows == score.num_rows
    assert opened.query("SELECT * FROM caption").column_names == opened.table("caption").column_names


@pytest.mark.parametrize(
    ("sql", "evidence"),
    [
        ("SELECT itn FROM score", "itn"),
        ("SELECT * FROM scores", "scores"),
        ("SELEC 1", "SELEC"),
        ("CREATE TABLE t (i INT)", "Count"),
    ],
)
def test_a_query_that_cannot_be_run_says_why(opened: capfilt.Run, sql: str, evidence: str) -> None:
    if sql.startswith("CREATE"):
        assert opened.query(sql).num_rows == 0  # it made a table in a database that is gone
        return
    with pytest.raises(UsageError, match="the query cannot be run") as caught:
        opened.query(sql)
    assert evidence in caught.value.evidence
    assert "score, select" in caught.value.remedy


def test_a_part_that_cannot_be_read_is_an_error_of_storage(done: World) -> None:
    own = capfilt.open_run(done.folder / "run")
    part = next((done.folder / "run" / "score").glob("part-*.parquet"))
    part.write_bytes(b"\0" * part.stat().st_size)
    for ask in (lambda: own.table("score"), lambda: own.query("SELECT * FROM score")):
        with pytest.raises(StorageError, match="cannot be read"):
            ask()
    assert own.table("caption").num_rows == own.query("SELECT * FROM caption").num_rows


def test_the_story_of_a_row(opened: capfilt.Run) -> None:
    row = opened.table("score")["row_id"][0].as_py()
    assert [story.stage for story in opened.explain(row)][-1] in ("export", "select", "score")
    with pytest.raises(SourceError, match="nothing in the run is called nope"):
        opened.explain("nope")


def rounded(found: object) -> object:
    """The last bit of a mean depends on the order in which DuckDB's threads add."""
    return json.loads(json.dumps(found, default=str), parse_float=lambda text: round(float(text), 9))


def test_the_report_is_that_of_the_command_and_is_written_when_asked(done: World) -> None:
    own = capfilt.open_run(done.folder / "run")
    file = done.folder / "run" / "report.json"
    file.unlink(missing_ok=True)
    found = own.report()
    assert rounded(found) == rounded(report.build(done.ledger))
    assert not file.exists()
    own.report(write=True)
    assert file.exists()
    truth = done.folder / "truth.csv"
    truth.write_text("file,text,match\n2.png,2 thing of web,1\n1.png,999 thing of web,0\n")
    assert set(own.report(truth)) == {*found, "truth"}


def test_what_is_known_of_its_filter(opened: capfilt.Run) -> None:
    assert {"crawl", "warnings"} <= opened.report_card().keys()


def test_verifying_finds_what_is_damaged(done: World) -> None:
    own = capfilt.open_run(done.folder / "run")
    assert not [file for file in own.verify() if file.problem]
    part = next((done.folder / "run" / "score").glob("part-*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    (bad,) = (file for file in own.verify() if file.problem)
    assert (bad.stage, bad.name) == ("score", part.name)


def test_its_images_are_images(opened: capfilt.Run) -> None:
    rows = opened.query("SELECT row_id, url FROM ingest").to_pylist()
    row = next(row for row in rows if row["url"].endswith("2.png"))
    assert opened.image(row["row_id"]).tobytes() == decode(png(2)).tobytes()
    human = opened.table("human", columns=["row_id"])
    assert human.num_rows == HUMAN
    assert opened.image(human["row_id"][0].as_py()).mode == "RGB"
    with pytest.raises(SourceError, match="no image of the row nope"):
        opened.image("nope")


def test_its_models_are_those_of_the_recipe(
    opened: capfilt.Run, blip_filter: Path, blip_captioner: Path
) -> None:
    assert dict(opened.models) == {"filter": str(blip_filter), "captioner": str(blip_captioner)}
    assert opened.decoding == capfilt.Decoding(prompt=opened.decoding.prompt)
    assert isinstance(opened.inference, capfilt.Inference)
    with pytest.raises(KeyError):
        opened.models["pretrain"]


def test_a_fork_reads_what_its_parent_has(done: World, tmp_path: Path) -> None:
    plan = done.plan(name="fork", select={"threshold": 0.1})
    fork = capfilt.Run(run(plan, parent=done.ledger))
    assert fork.stages["score"].parent
    assert fork.table("score").equals(capfilt.Run(done.ledger).table("score"))
    assert fork.query("SELECT count(*) AS n FROM score")["n"][0].as_py() == fork.table("score").num_rows
    assert fork.table("select").num_rows == fork.stages["select"].kept


def test_a_copy_is_read_where_it_lies(finished: Ledger, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished.storage.url, tmp_path / "it's a copy"))
    own = capfilt.open_run(str(copy))
    assert own.query("SELECT * FROM score").num_rows == own.table("score").num_rows
