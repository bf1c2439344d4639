import shutil
from pathlib import Path

from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import query


def test_a_query_without_files_has_no_rows_and_odd_names_do_no_harm(finished: Ledger, tmp_path: Path) -> None:
    assert query.query("SELECT * FROM files", query.Files([])) == []
    odd = Ledger(shutil.copytree(finished.storage.path, tmp_path / "it's [here] 100%"))
    (row,) = query.query("SELECT count(*) AS n FROM files WHERE itm > ?", query.files(odd, "select"), 0.5)
    assert row["n"] > 0


def test_the_columns_of_a_stage(finished: Ledger) -> None:
    assert query.columns(query.files(finished, "list_web"))[0] == "row_id"
    assert "filename" not in query.columns(query.files(finished, "ingest"))
    assert query.columns(query.Files([])) == []
