"""The demo's closing: what it says is what the known truth and the run's own files say."""

import csv
from pathlib import Path

from rich.console import Console

from capfilt.pipeline.demo.command import close, measure, prepare
from capfilt.pipeline.demo.grammar import Verdict
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.planning.load import load
from capfilt.pipeline.reports.query import files, query
from tests.pipeline.demo.verdicts import web_verdicts
from tests.scenarios.command import here


def test_noise_is_counted_by_the_known_truth(crawl: Path, finished: Path) -> None:
    found, verdicts = measure(crawl, Ledger(finished)), web_verdicts(crawl)
    noisy = verdicts.total() - verdicts[Verdict.MATCH] - verdicts[Verdict.PARTIAL]
    judged = query("SELECT count(*) AS n FROM files WHERE source = 'web'", files(Ledger(finished), "score"))
    assert found["web"]["pairs"] == judged[0]["n"]
    assert abs(found["web"]["noise"] - noisy / verdicts.total()) < 0.1  # boilerplate may repeat on one image
    kept = query("SELECT count(*) AS n FROM files", files(Ledger(finished), "select"))[0]["n"]
    assert found["all"]["kept"] == kept == found["web"]["kept"] + found["synthetic"]["kept"]


def test_the_closing_names_the_outputs_and_what_to_try(crawl: Path, finished: Path) -> None:
    console = Console(record=True, width=120)
    close(crawl, Ledger(finished), console)
    said = console.export_text()
    assert "by the known truth" in said
    assert f"capfilt report {finished}" in said
    assert str(finished / "export") in said


def test_the_demos_recipe_is_written_once_with_its_seed(tmp_path: Path, crawl: Path) -> None:
    out = tmp_path / "demo"
    recipe = prepare(out, 5, human=12, web=12)
    assert load(recipe).seed == 5
    recipe.write_text(recipe.read_text() + "# mine\n")
    assert prepare(out, 5, human=12, web=12).read_text().endswith("# mine\n")


def test_the_report_shows_noise_by_a_truth_table(crawl: Path, finished: Path, tmp_path: Path) -> None:
    with (crawl / "truth.csv").open() as table, (tmp_path / "truth.csv").open("w") as out:
        writer = csv.writer(out)
        writer.writerow(["file", "text", "match"])
        for row in csv.DictReader(table):
            if row["set"] == "web":
                writer.writerow([row["file"], row["text"], int(row["verdict"] == "match")])
    said = here("report", finished, "--truth", tmp_path / "truth.csv").said
    assert "by the truth, web:" in said
    assert "by the truth, web_auc_itm: value" in said
