import pytest

from capfilt.data_contracts.errors import SourceError
from capfilt.data_contracts.identity import image_id, pair_id, row_id
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports.explain import explain
from tests.stages.rows import png

IMAGE = image_id(png(3))
IDENTIFIERS = [row_id("web", "3.png"), "3.png", IMAGE, pair_id(IMAGE, "999 thing of web")]


@pytest.mark.parametrize("identifier", IDENTIFIERS, ids=["row", "url", "image", "pair"])
def test_the_story_of_a_row_by_any_of_its_names(finished: Ledger, identifier: str) -> None:
    stories = {story.stage: story for story in explain(finished, identifier)}
    assert list(stories) == ["list_web", "ingest", "caption", "score", "select", "export"]
    assert stories["ingest"].rows[0]["url"] == "3.png"
    assert [row["text"] for row in stories["score"].rows] == ["999 thing of web", "3 seen 0"]
    (dropped,) = stories["select"].rejects
    assert (dropped["reason"], dropped["id"]) == ("below_threshold", IDENTIFIERS[3])
    assert [row["text"] for row in stories["export"].rows] == ["3 seen 0"]


def test_the_story_of_what_left_early(finished: Ledger) -> None:
    (listed,) = explain(finished, row_id("web", "gone.png"))
    assert (listed.stage, listed.rows, listed.rejects[0]["reason"]) == ("list_web", [], "missing")


def test_nobody_of_that_name(finished: Ledger) -> None:
    with pytest.raises(SourceError, match="nothing in the run is called"):
        explain(finished, "'; DROP")
