from pathlib import Path

import pytest

from data_contracts.errors import CalibrationError
from data_contracts.records import Split
from models.protocols import Match
from stages.calibrate import Calibrate
from stages.memory import MemoryInput
from stages.stage import Trained
from tests.stages.rows import FakeFilter, human, run_global, site

STAGE = Calibrate(Trained("filter"), seed=0)


def humans(count: int, split: Split = Split.CALIBRATE) -> MemoryInput:
    return MemoryInput.of(*(human(number, f"{number} dog", split=split) for number in range(count)))


def test_the_threshold_lies_between_match_and_mismatch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("models.open.open_filter", lambda *_: FakeFilter())
    rows, _ = run_global(STAGE, site(tmp_path, STAGE.filter), humans(25))
    figures = {row["name"]: row for row in rows}
    assert figures.keys() == {"threshold", "temperature", "bias", "auc"}
    assert 0.1 < figures["threshold"]["value"] < 0.9
    assert figures["threshold"]["count"] == 3 * 25  # each text with its own image and with two others
    assert figures["threshold"]["note"].endswith("from 25 calibrate images")
    assert [figures["auc"][key] for key in ("value", "low", "high")] == [1.0, 1.0, 1.0]


def test_too_few_images_of_the_calibrate_split(tmp_path: Path) -> None:
    many_of_another = MemoryInput.of(
        *(human(number, "t", split=Split.TRAIN) for number in range(30)),
        *(human(number, "t", split=Split.CALIBRATE) for number in range(30, 49)),
    )
    with pytest.raises(CalibrationError, match="too small") as caught:
        run_global(STAGE, site(tmp_path, STAGE.filter), many_of_another)
    assert caught.value.evidence.startswith("19 images")


def test_a_filter_that_prefers_mismatches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Inverted(FakeFilter):
        def match(self, images, texts):
            return [
                [Match(1 - found.itm, found.itc) for found in own] for own in super().match(images, texts)
            ]

    monkeypatch.setattr("models.open.open_filter", lambda *_: Inverted())
    with pytest.raises(CalibrationError, match="does not score human pairs above"):
        run_global(STAGE, site(tmp_path, STAGE.filter), humans(25))
