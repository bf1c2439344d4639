from pathlib import Path

import numpy as np
import pytest

from capfilt.data_contracts.errors import CalibrationError
from capfilt.data_contracts.records import HeldOutScore, PairKind, Score, Split
from capfilt.models.statistics.threshold_target import ThresholdTarget
from capfilt.stages.evaluation.calibrate import Calibrate
from capfilt.stages.in_memory import MemoryInput
from tests.stages.rows import picture, run_global, score, site

STAGE = Calibrate(seed=0)


def judged(
    count: int, split: Split = Split.CALIBRATE, own: float = 0.9, other: float = 0.1, spread: float = 0.0
) -> list[HeldOutScore]:
    """Images of one caption each with a shuffled and a hard one, scored so, plus normal noise on the logit."""
    random = np.random.default_rng(0)

    def itm(mean: float) -> float:
        logit = np.log(mean / (1 - mean)) + spread * random.standard_normal()
        return float(1 / (1 + np.exp(-logit)))

    levels = {PairKind.OWN: own, PairKind.SHUFFLED: other, PairKind.HARD: other}
    return [
        HeldOutScore(
            split=split,
            image_id=picture(number).image_id,
            text=f"{number}",
            kind=kind,
            itm=itm(level),
            itc=0.0,
        )
        for number in range(count)
        for kind, level in levels.items()
    ]


def crawl(matches: int, mismatches: int, own: float = 0.9, other: float = 0.1) -> list[Score]:
    """Texts that are scored as those of :func:`judged` with a spread of 1."""
    random = np.random.default_rng(1)
    levels = np.repeat([own, other], [matches, mismatches])
    logits = np.log(levels / (1 - levels)) + random.standard_normal(len(levels))
    return [score(number, "t", float(1 / (1 + np.exp(-logit)))) for number, logit in enumerate(logits)]


def figures(stage: Calibrate, tmp_path: Path, *rows: HeldOutScore | Score) -> dict[str, dict]:
    found, _ = run_global(stage, site(tmp_path), MemoryInput.of(*rows))
    return {row["name"]: row for row in found}


def test_the_threshold_lies_between_match_and_mismatch(tmp_path: Path) -> None:
    found = figures(STAGE, tmp_path, *judged(25))
    assert found.keys() == {"threshold", "temperature", "bias", "auc"}
    assert 0.1 < found["threshold"]["value"] < 0.9
    assert found["threshold"]["count"] == 3 * 25  # each text with its own image and with two others
    assert found["threshold"]["note"].endswith("from 25 calibrate images")
    assert [found["auc"][key] for key in ("value", "low", "high")] == [1.0, 1.0, 1.0]


def test_too_few_images_of_the_calibrate_split(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="too small") as caught:
        figures(STAGE, tmp_path, *judged(19), *judged(40, Split.TEST)[57:])
    assert caught.value.evidence.startswith("19 images")


def test_a_filter_that_prefers_mismatches(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="does not score human pairs above") as caught:
        figures(STAGE, tmp_path, *judged(25, own=0.1, other=0.9))
    assert "AUC 0.000 against shuffled ones; AUC 0.000 against hard ones" in caught.value.evidence


def test_a_recall_is_the_share_of_human_pairs_kept(tmp_path: Path) -> None:
    pairs = judged(200, spread=1.0)
    found = figures(Calibrate(0, ThresholdTarget("recall", 0.9)), tmp_path, *pairs)
    own = np.array([pair.itm for pair in pairs if pair.kind == PairKind.OWN])
    threshold = found["threshold"]
    assert (own >= threshold["value"]).mean() == pytest.approx(0.9)
    assert found["recall"]["value"] == pytest.approx(0.9)
    assert threshold["low"] < threshold["value"] < threshold["high"]
    assert "recall 0.9" in threshold["note"]


def test_a_precision_is_meant_at_the_prior_of_the_crawl(tmp_path: Path) -> None:
    pairs, thresholds = judged(1000, spread=1.0), []
    for matches in (500, 5000):
        texts = crawl(matches, 5000)
        found = figures(Calibrate(0, ThresholdTarget("precision", 0.97)), tmp_path, *pairs, *texts)
        assert found["prior"]["value"] == pytest.approx(matches / (matches + 5000), abs=0.03)
        kept = np.array([text.itm for text in texts]) >= found["threshold"]["value"]
        assert kept[:matches].sum() / kept.sum() == pytest.approx(0.97, abs=0.02)
        thresholds.append(found["threshold"]["value"])
    assert thresholds[0] > thresholds[1]  # the fewer match, the stricter


def test_a_precision_that_the_filter_cannot_reach(tmp_path: Path) -> None:
    pairs = judged(300, own=0.6, other=0.3, spread=1.0)
    with pytest.raises(CalibrationError, match=r"cannot reach a precision of 0.99") as caught:
        figures(
            Calibrate(0, ThresholdTarget("precision", 0.99)),
            tmp_path,
            *pairs,
            *crawl(50, 1000, own=0.6, other=0.3),
        )
    assert "the best is a precision of 0." in caught.value.evidence
    assert "at recall 0." in caught.value.evidence
