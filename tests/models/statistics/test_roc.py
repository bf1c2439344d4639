import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from capfilt.models.statistics.roc import roc_auc, roc_auc_over_images


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2))
def test_auc_is_sklearns(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = map(list, zip(*pairs, strict=True))
    if len(set(labels)) < 2:
        return
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_auc_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([1, 0], [60, 90])
    truth = 0.7602  # two unit normals one apart: the normal distribution function of 1 / sqrt(2)
    covered = 0
    for round_ in range(200):
        scores = generator.normal(labels, 1)
        figure = roc_auc_over_images(labels, scores, range(len(labels)), seed=round_, rounds=300)
        assert figure.low <= figure.value <= figure.high
        covered += figure.low <= truth <= figure.high
    assert 0.9 <= covered / 200 <= 0.99


def test_auc_is_reproducible_and_fast() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 5000)
    scores = labels + generator.normal(size=5000)
    start = time.perf_counter()
    first = roc_auc_over_images(labels, scores, range(len(labels)), seed=3)
    assert time.perf_counter() - start < 5
    assert first == roc_auc_over_images(labels, scores, range(len(labels)), seed=3)
    assert first != roc_auc_over_images(labels, scores, range(len(labels)), seed=4)


@pytest.mark.parametrize(("labels", "scores"), [([1, 1], [0, 1]), ([0, 1], [0, np.nan]), ([], [])])
def test_auc_needs_both_kinds_and_finite_scores(labels: list[int], scores: list[float]) -> None:
    with pytest.raises(ValueError, match="AUC needs"):
        roc_auc_over_images(labels, scores, range(len(labels)), seed=0)


labelled = st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.5, 0.9])), min_size=2, max_size=30)


@given(labelled, st.integers(1, 4))
def test_a_weight_is_a_number_of_pairs(pairs: list[tuple[bool, float]], times: int) -> None:
    labels, scores = zip(*pairs, strict=True)
    weights = [times if label else 1 for label in labels]
    found = roc_auc(labels, scores, weights)
    if len(set(labels)) < 2:
        assert np.isnan(found)
    else:
        repeated = [pair for pair in pairs for _ in range(times if pair[0] else 1)]
        assert found == pytest.approx(roc_auc_score(*zip(*repeated, strict=True)))
