import json
from typing import Any

import pytest

from capfilt.models.protocols import Written
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import report
from tests.pipeline.conftest import World
from tests.pipeline.local import HUMAN, WEB, run
from tests.stages.rows import FakeCaptioner, number_of


def test_the_numbers_of_a_run(finished: Ledger) -> None:
    found = report.build(finished)
    assert found["complete"]
    assert found["exported"] == {"human": HUMAN, "synthetic": WEB - 1, "web": WEB // 2}
    assert found["selection"]["threshold_used"] == 0.5
    web, synthetic = found["texts"]["web"], found["texts"]["synthetic"]
    assert (web["judged"], web["kept"], web["kept_share"]) == (WEB, WEB // 2, pytest.approx((WEB // 2) / WEB))
    assert (synthetic["mean_itm"], synthetic["kept_share"]) == (pytest.approx(0.9), 1)
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert (stages["ingest"]["unit"], stages["score"]["unit"]) == ("image", "text")
    assert stages["ingest"]["rejected"] == {"not_image": 1}
    assert [(stock["kind"], stock["images"], stock["implausible"]) for stock in found["stock"]] == [
        ("caption", 1, False),
        ("phrase", 0, False),
    ]
    json.dumps(found)


def test_it_is_written_beside_the_run_with_a_card_for_people(copied: Ledger) -> None:
    found = report.write(copied)
    assert json.loads((copied.storage.path / "report.json").read_text()) == json.loads(json.dumps(found))
    card = (copied.storage.path / "export/README.md").read_text()
    assert f"| human | {HUMAN} |" in card
    assert "1 not_image" in card
    assert "{{" not in card


def test_a_run_that_is_not_done_has_a_report_and_no_card(world: World) -> None:
    ledger = run(world.plan(), until="score")
    found = report.write(ledger)
    assert not found["complete"]
    assert found["exported"] == {}
    assert found["selection"]["threshold_used"] is None
    assert not (ledger.storage.path / "export").exists()


def facts(**changes: Any) -> dict[str, Any]:
    """A report without a warning, and what is changed in it."""
    figure = {"value": 0.9, "low": 0.85, "high": 0.95}
    evaluation = {
        "filter_auc": figure,
        "caption_cider": {"value": 1.0},
        "chance_cider": {"value": 0.2},
        "test_images": {"value": 500},
    }
    stages = [{"stage": "ingest", "complete": True, "kept": 500, "rejected": {"unreadable": 3}}]
    texts = {"synthetic": {"duplicate_rate": 0.1}}
    return {
        "evaluation": evaluation | changes.pop("evaluation", {}),
        "stages": stages,
        "texts": texts,
        "stock": [],
        "words": {},
        "rehearsal": "auto",
        "filter": None,
        "web_passes": 8.0,
        "test_images_in_crawl": 0,
        "uniqueness": {},
        **changes,
    }


def test_a_good_run_and_one_without_figures_have_no_warning() -> None:
    assert report._warnings(facts()) == []
    assert report._warnings({**facts(), "evaluation": {}, "stages": [], "texts": {}}) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"evaluation": {"filter_auc": {"value": 0.75, "low": 0.69, "high": 0.8}}}, "The filter is weak"),
        ({"evaluation": {"caption_cider": {"value": 0.29}}}, "The captions are poor: CIDEr 0.29"),
        ({"evaluation": {"test_images": {"value": 49}}}, "Only 49 test images"),
        ({"texts": {"synthetic": {"duplicate_rate": 0.6}}}, "60% of the synthetic texts repeat"),
        (
            {"stages": [{"stage": "caption", "complete": True, "rejected": {"poison": 2}}]},
            "2 units killed their process in caption",
        ),
        (
            {"stages": [{"stage": "select", "complete": False, "rejected": {}}]},
            "The run is not complete (select)",
        ),
        ({"web_passes": 32.0}, "Pretraining sees each of the 500 web images 32 times"),
        ({"test_images_in_crawl": 3}, "3 test images of the human set are in the crawl"),
    ],
)
def test_each_warning_appears_when_it_should(change: dict[str, Any], says: str) -> None:
    (warning,) = report._warnings(facts(**change))
    assert says in warning


def test_stock_phrases_are_told_in_the_report_and_in_the_card(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every caption says the same of its image, and half of them nothing else."""

    class Stuck(FakeCaptioner):
        def caption(self, images, image_ids, decoding):
            numbers = [number_of(image) for image in images]
            seen = ["" if number % 2 else f" {number}" for number in numbers]
            return [[Written(f"{what} in the middle of a large image".strip(), -1.0)] for what in seen]

    monkeypatch.setattr("capfilt.models.open.open_captioner", lambda *given: Stuck())
    monkeypatch.setattr(report, "STOCK_IMAGES", 5)
    found = report.write(run(world.plan()))
    half = (WEB + 1) // 2
    assert [(stock["text"], stock["images"], stock["share"]) for stock in found["stock"]] == [
        ("in the middle of a large image", half, half / WEB),
        ("in the middle of a large", WEB, 1.0),
    ]
    told = [warning for warning in found["warnings"] if "stock phrase" in warning]
    assert (
        f"56% of the captioned images ({half}) have the caption `in the middle of a large image`" in told[0]
    )
    assert f"100% of the captioned images ({WEB}) have the phrase `in the middle of a large`" in told[1]
    card = (world.ledger.storage.path / "export/README.md").read_text()
    assert all(warning in card for warning in told)
