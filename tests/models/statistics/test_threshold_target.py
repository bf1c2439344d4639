import numpy as np
import pytest

from capfilt.data_contracts.errors import CalibrationError
from capfilt.models.statistics.threshold_target import ThresholdTarget, curve, reach

# Ten matches and ten mismatches; of the mismatches two reach what all matches but two reach.
ITM = np.array([0.2, 0.3, 0.6, 0.7, 0.8, 0.9, 0.91, 0.92, 0.93, 0.94, *[0.1] * 8, 0.5, 0.75])
KINDS = np.repeat(["own", "shuffled"], 10)
EVEN = [("own", 0.5), ("shuffled", 0.5)]


def test_a_curve_by_hand() -> None:
    found = curve(ITM, KINDS, EVEN, np.ones(20), at=[0.0, 0.5, 0.8, 1.0])
    assert found.recall.tolist() == pytest.approx([1.0, 0.8, 0.5 + 0.1, 0.0])
    # half a pair more than was seen above and below: 10.5, 2.5, 0.5 of 11 mismatches
    assert found.precision[:3].tolist() == pytest.approx(
        [1 / (1 + 10.5 / 11), 0.8 / (0.8 + 2.5 / 11), 0.6 / (0.6 + 0.5 / 11)]
    )


def test_the_rarer_a_match_the_lower_the_precision() -> None:
    rare = curve(ITM, KINDS, [("own", 0.1), ("shuffled", 0.9)], np.ones(20))
    even = curve(ITM, KINDS, EVEN, np.ones(20))
    assert (rare.precision < even.precision).all()
    assert rare.recall.tolist() == pytest.approx(even.recall.tolist())


def many(count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    logits = np.concatenate([2 + random.standard_normal(count), -2 + random.standard_normal(count)])
    return 1 / (1 + np.exp(-logits)), np.repeat(["own", "shuffled"], count), np.tile(np.arange(count), 2)


@pytest.mark.parametrize("value", [0.5, 0.9, 0.97])
def test_the_lowest_threshold_that_is_precise_enough(value: float) -> None:
    itm, kinds, images = many()
    shares = [("own", 0.3), ("shuffled", 0.7)]
    found = reach(ThresholdTarget("precision", value), itm, kinds, images, shares, seed=0)
    assert found.precision >= value
    below = curve(itm, kinds, shares, np.ones(len(itm)))
    assert (below.precision[below.thresholds < found.threshold] < value).all()
    assert found.low <= found.threshold <= found.high
    assert found.recall == pytest.approx((itm[kinds == "own"] >= found.threshold).mean())


@pytest.mark.parametrize("value", [0.5, 0.95, 1.0])
def test_the_highest_threshold_that_keeps_enough(value: float) -> None:
    itm, kinds, images = many()
    own = np.sort(itm[kinds == "own"])
    found = reach(ThresholdTarget("recall", value), itm, kinds, images, EVEN, seed=0)
    assert (own >= found.threshold).mean() >= value
    assert (own >= np.nextafter(found.threshold, 2)).mean() < value


def test_a_precision_out_of_reach_tells_the_best_there_is() -> None:
    itm, kinds, images = many()
    with pytest.raises(CalibrationError, match=r"cannot reach a precision of 0.999") as caught:
        reach(
            ThresholdTarget("precision", 0.999),
            itm,
            kinds,
            images,
            [("own", 0.01), ("shuffled", 0.99)],
            seed=0,
        )
    assert "where 1.0% of the texts match; from 400 calibrate images" in caught.value.evidence
    assert "at recall 0." in caught.value.evidence


def test_one_lucky_pair_is_no_precision() -> None:
    """The highest of the matches alone are above all mismatches, but too few of them."""
    itm = np.concatenate([np.linspace(0.9, 0.99, 5), np.full(95, 0.4), np.full(100, 0.5)])
    kinds = np.repeat(["own", "shuffled"], 100)
    with pytest.raises(CalibrationError, match="cannot reach"):
        reach(ThresholdTarget("precision", 0.9), itm, kinds, np.arange(200), EVEN, seed=0)
