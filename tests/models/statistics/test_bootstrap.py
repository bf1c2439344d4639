import numpy as np

from capfilt.models.statistics.bootstrap import image_weights, over_images


def test_whole_images_are_drawn() -> None:
    images = ["a", "b", "a", "c", "b", "a"]
    for weights in image_weights(images, seed=0, rounds=20):
        assert weights[0] == weights[2] == weights[5]
        assert weights[1] == weights[4]
        assert weights[[0, 1, 3]].sum() == 3


def test_pairs_of_one_image_are_not_independent() -> None:
    """A hundred pairs of each of ten images say no more than ten pairs."""
    values = np.repeat(np.arange(10) % 2, 100).astype(float)
    apart = over_images(np.arange(1000), lambda weights: float(np.average(values, weights=weights)), 0)
    together = over_images(
        np.repeat(np.arange(10), 100), lambda weights: float(np.average(values, weights=weights)), 0
    )
    assert apart.value == together.value == 0.5
    assert together.high - together.low > 5 * (apart.high - apart.low)


def test_rounds_in_which_a_figure_is_not_defined_do_not_count() -> None:
    some = over_images(["a", "b"], lambda weights: 1.0 if weights[0] else float("nan"), 0)
    assert some == (1.0, 1.0, 1.0)
    assert np.isnan(over_images(["a"], lambda weights: float("nan"), 0).value)
