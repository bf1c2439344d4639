import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from capfilt.data_contracts.errors import UsageError
from capfilt.data_contracts.identity import image_id, split_of
from capfilt.data_contracts.records import Split
from capfilt.models.protocols import Match, Written
from capfilt.pipeline.ledger.ledger import Ledger
from capfilt.pipeline.reports import filter_report, report
from tests.pipeline.conftest import World
from tests.pipeline.local import plan_of, run
from tests.stages.rows import FakeCaptioner, FakeFilter, number_of, png

HELD, WEB = 60, 120
THINGS = tuple(
    f"{colour} {noun}"
    for noun in ("cup", "box", "jar", "hat", "dog", "cat", "hen", "cow")
    for colour in ("red", "blue", "green", "black")
)


class Noisy(FakeFilter):
    """As sure as its luck is, which is that of the image and the text; it reads the first word and no other."""

    def match(self, images, texts):
        found = super().match(images, texts)
        return [
            [
                Match(1 / (1 + np.exp(-np.log(match.itm / (1 - match.itm)) - luck(image, text))), match.itc)
                for match, text in zip(matches, own, strict=True)
            ]
            for image, matches, own in zip(images, found, texts, strict=True)
        ]


def luck(image: Any, text: str) -> float:
    seed = [number_of(image), *text.encode()]
    return float(np.random.default_rng(seed).standard_normal())


class Writer(FakeCaptioner):
    """Says of an image what it shows; of every fifth one it turns it round, which the filter does not see."""

    def caption(self, images, image_ids, decoding):
        numbers = map(number_of, images)
        return [[Written(says(number, number, turned=number % 5 == 0), -1.0)] for number in numbers]


def says(number: int, shown: int, turned: bool = False) -> str:
    first, second = THINGS[shown % 32], THINGS[(shown + 5) % 32]
    return (
        f"{number} shows a {second} above a {first}"
        if turned
        else f"{number} shows a {first} above a {second}"
    )


def write(folder: Path, numbers: list[int], false: int = 0) -> None:
    """Images and what they show; the first ``false`` have a text about another one."""
    folder.mkdir(parents=True)
    rows = ["file,text"]
    for at, number in enumerate(numbers):
        (folder / f"{number}.png").write_bytes(png(number))
        about = 5000 + number if at < false else number
        rows.append(f"{number}.png,{says(about, number)}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, blip_filter: Path, blip_captioner: Path) -> Ledger:
    """A run whose filter errs now and then, with a human set large enough to be judged by; a third of the web is
    false."""
    folder = tmp_path_factory.mktemp("judged")
    splits: dict[Split, list[int]] = {split: [] for split in Split}
    for number in range(1000, 4000):
        splits[split_of(image_id(png(number)))].append(number)
    test = splits[Split.TEST][: HELD + 5]
    write(folder / "human", [*splits[Split.CALIBRATE][:HELD], *test, *splits[Split.TRAIN][:5]])
    write(folder / "web", [*range(1, 1 + WEB - 5), *test[HELD:]], false=WEB // 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capfilt.models.open.open_filter", lambda *_: Noisy())
        patch.setattr("capfilt.models.open.open_captioner", lambda *_: Writer())
        models = {"filter": blip_filter, "captioner": blip_captioner}
        return run(plan_of(folder, models, select={"threshold": {"recall": 0.9}}, shards={"target": "1MB"}))


def test_what_is_known_of_a_filter(judged: Ledger) -> None:
    card = filter_report.build(judged)
    assert card is not None
    assert (card["test_images"], card["calibrate_images"]) == (HELD, HELD)  # five are in the crawl
    auc = card["auc"]
    assert auc.keys() == {"shuffled", "hard", "object", "attribute", "relation"}
    assert auc["shuffled"]["low"] <= auc["shuffled"]["value"] <= auc["shuffled"]["high"]
    assert auc["shuffled"]["value"] > 0.95
    assert card["blind"] == ["object", "attribute", "relation"]
    threshold = card["threshold"]
    assert threshold["low"] <= threshold["value"] <= threshold["high"]
    assert threshold["note"].startswith("ITM probability for recall 0.9")
    assert threshold["recall"]["value"] == pytest.approx(0.9, abs=0.1)
    assert threshold["passes"]["shuffled"]["value"] < 0.15
    assert threshold["passes"]["relation"]["value"] > 0.7
    assert threshold["precision"]["low"] <= threshold["precision"]["value"] <= threshold["precision"]["high"]
    assert card["calibration"]["ece_after"]["value"] < 0.1
    json.dumps(card)


def test_the_noise_among_kept_texts_is_foretold(judged: Ledger) -> None:
    card = filter_report.build(judged)
    assert card is not None
    web, synthetic = card["crawl"]["web"], card["crawl"]["synthetic"]
    assert web["matches"]["value"] == pytest.approx(2 / 3, abs=0.08)
    assert web["matches"]["low"] < web["matches"]["high"]
    assert (web["texts"], synthetic["texts"]) == (WEB, synthetic["texts"])
    assert synthetic["matches"]["value"] == pytest.approx(0.8, abs=0.08)
    assert synthetic["kept_noise"]["low"] < 0.2 < synthetic["kept_noise"]["high"]
    assert (card["audit"]["captions"], card["audit"]["why_not"]) == (2 * HELD + 5, None)
    assert 0 <= web["kept_noise"]["value"] < 0.05
    assert card["crawl"]["all"]["kept"] == web["kept"] + synthetic["kept"]


def test_a_curve_from_strict_to_lenient(judged: Ledger) -> None:
    card = filter_report.build(judged)
    assert card is not None
    rows = card["curve"]
    assert [row["threshold"] for row in rows] == sorted((row["threshold"] for row in rows), reverse=True)
    for one, other in pairwise(rows):
        assert one["recall"] <= other["recall"]
        assert one["kept"]["web"] <= other["kept"]["web"]
    assert rows[-1]["recall"] == 1.0
    used = next(row for row in rows if row["threshold"] == card["threshold"]["value"])
    assert used["kept"]["web"] == pytest.approx(card["crawl"]["web"]["kept"] / WEB)
    assert used["precision"] == pytest.approx(card["threshold"]["precision"]["value"], abs=0.02)


def test_a_blind_filter_is_warned_of_with_the_remedy(judged: Ledger) -> None:
    warnings = report.build(judged)["warnings"]
    (said,) = [warning for warning in warnings if "blind to a wrong relation" in warning]
    assert "ROC AUC 0." in said
    assert "models.filter.edits" in said


def test_it_is_in_the_report_and_in_the_dataset_card(judged: Ledger) -> None:
    found = report.build(judged)
    assert found["filter"] == filter_report.build(judged)
    text = report.card(found)
    assert "## How far the filter can be trusted" in text
    assert "| relation | 60 |" in text
    assert "Not counted, since the filter does not see them: object, attribute, relation." in text


def test_it_can_be_read_on_a_terminal(judged: Ledger) -> None:
    console = Console(record=True, width=120)
    filter_report.show(filter_report.demand(judged), console)
    text = console.export_text()
    for words in (
        "relation",
        "pass the threshold",
        "calibration error",
        "expected noise",
        "warning:",
        "synthetic kept",
    ):
        assert words in text


def test_with_few_test_images_nothing_is_said_of_the_crawl(finished: Ledger) -> None:
    card = filter_report.demand(finished)
    assert (card["test_images"], card["crawl"], card["calibration"]) == (6, {}, None)
    assert card["auc"]["shuffled"]["value"] == 1
    assert card["threshold"]["value"] == 0.5
    assert card["threshold"]["precision"] is None
    filter_report.show(card, Console(quiet=True))


def test_a_run_without_human_pairs_has_no_card(world: World) -> None:
    ledger = run(world.plan(human=[]))
    assert report.build(ledger)["filter"] is None
    with pytest.raises(UsageError, match="no test pairs") as caught:
        filter_report.demand(ledger)
    assert "no `human` source" in caught.value.evidence


def test_a_run_that_has_not_come_so_far_has_no_card_yet(world: World) -> None:
    ledger = run(world.plan(), until="human")
    with pytest.raises(UsageError, match="no test pairs") as caught:
        filter_report.demand(ledger)
    assert "nothing of them yet" in caught.value.evidence
