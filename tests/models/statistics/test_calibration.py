from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from numpy.typing import NDArray

from capfilt.data_contracts.errors import CalibrationError
from capfilt.models.statistics.calibration import calibrate


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-logits)))


def overconfident(count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores whose true log-odds are half their logit, plus one.

    With x normal around +m and -m and variance s, the log-odds of x are 2 m x / s; here m = s = 2, so they are
    2 x; the reported logit is 2 (2 x - 1).
    """
    generator = np.random.default_rng(seed)
    matched, mismatched = (generator.normal(mean, np.sqrt(2), count) for mean in (2, -2))
    return sigmoid(2 * (2 * matched - 1)), sigmoid(2 * (2 * mismatched - 1))


def test_recovers_temperature_bias_and_threshold() -> None:
    fit = calibrate(*overconfident(20_000))
    assert fit.temperature == pytest.approx(2, rel=0.1)
    assert fit.bias == pytest.approx(1, abs=0.2)
    assert fit.threshold == pytest.approx(float(sigmoid(np.asarray(-2.0))), abs=0.05)
    assert fit.prior == 0.5
    assert fit.ece_after < fit.ece_before
    assert fit.ece_after < 0.01
    assert fit.auc_low < fit.auc < fit.auc_high


def test_threshold_is_where_the_calibrated_probability_is_one_half() -> None:
    fit = calibrate(*overconfident(200))
    assert fit.probability(fit.threshold) == pytest.approx(0.5)
    assert fit.probability([0.0, 1.0]).shape == (2,)
    order = fit.probability(np.linspace(0, 1, 50))
    assert (np.diff(order) >= 0).all()


def test_many_negatives_do_not_move_the_prior() -> None:
    matched, mismatched = overconfident(2000)
    even, odd = calibrate(matched, mismatched), calibrate(matched[:200], mismatched)
    assert (odd.positives, odd.negatives) == (200, 2000)
    assert odd.threshold == pytest.approx(even.threshold, abs=0.1)


def test_separable_scores_get_a_threshold_between_them() -> None:
    generator = np.random.default_rng(0)
    fit = calibrate(generator.uniform(0.9, 1.0, 30), generator.uniform(0.0, 0.3, 30))
    assert 0.3 < fit.threshold < 0.9
    assert np.isfinite([fit.temperature, fit.bias]).all()
    assert fit.auc == 1


def test_saturated_scores() -> None:
    fit = calibrate([1.0] * 30, [0.0] * 30)
    assert fit.threshold == pytest.approx(0.5)
    assert fit.probability(1.0) > 0.9


def test_too_few_human_pairs() -> None:
    with pytest.raises(CalibrationError, match="too few") as caught:
        calibrate([0.9] * 7, [0.1] * 50)
    assert "7 human pairs" in caught.value.evidence
    assert "at least 20" in caught.value.evidence
    assert "SelectPairs.threshold to a number" in caught.value.remedy
    assert calibrate([0.9] * 7, [0.1] * 50, minimum=5).positives == 7
    with pytest.raises(CalibrationError, match="0 mismatched pairs"):
        calibrate([0.9] * 50, [])


@pytest.mark.parametrize("same", [0.5, 0.0, 1.0])
def test_constant_scores(same: float) -> None:
    with pytest.raises(CalibrationError, match="the same score to everything"):
        calibrate([same] * 30, [same] * 30)


def test_untrained_filters_hardly_differ() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(CalibrationError, match="the same score to everything"):
        calibrate(0.5 + generator.normal(0, 1e-6, 30), 0.5 + generator.normal(0, 1e-6, 30))


def test_mismatches_above_matches() -> None:
    matched, mismatched = overconfident(100)
    with pytest.raises(CalibrationError, match="above mismatched") as caught:
        calibrate(mismatched, matched)
    assert "AUC 0.0" in caught.value.evidence


@pytest.mark.parametrize("wrong", [1.5, -0.1, float("nan")])
def test_scores_must_be_probabilities(wrong: float) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        calibrate([0.9] * 29 + [wrong], [0.1] * 30)


def test_is_a_value() -> None:
    fit = calibrate(*overconfident(100))
    assert fit == calibrate(*overconfident(100))
    with pytest.raises(FrozenInstanceError):
        fit.threshold = 0.5  # type: ignore[misc]
