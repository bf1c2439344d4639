"""How sure a figure is, when the pairs of one image are not independent: images are drawn again, not pairs."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
ROUNDS = 400


class Interval(NamedTuple):
    """A figure with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


def image_weights(images: ArrayLike, seed: int, rounds: int = ROUNDS) -> Iterator[Floats]:
    """How often each pair counts in each round, shape (pairs,), float64; ``images`` names the image of a pair."""
    _, image = np.unique(np.asarray(images), return_inverse=True)
    count = int(image.max(initial=-1)) + 1
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        drawn = np.bincount(generator.integers(0, count, count), minlength=count)
        yield drawn[image].astype(np.float64)


def over_images(
    images: ArrayLike, statistic: Callable[[Floats], float], seed: int, rounds: int = ROUNDS
) -> Interval:
    """A figure of pairs with its 95% percentile interval. ``statistic`` gets the weights of the pairs, all ones for
    the figure itself; rounds in which it is not defined (NaN) do not count.
    """
    value = statistic(np.ones(len(np.asarray(images))))
    return interval(value, [statistic(weights) for weights in image_weights(images, seed, rounds)])


def interval(value: float, drawn: ArrayLike) -> Interval:
    """A figure with the middle 95% of what it is in the rounds in which it is defined."""
    values = np.asarray(drawn, dtype=np.float64)
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, (0.025, 0.975)) if len(values) else (value, value)
    return Interval(float(value), float(low), float(high))
