"""Images of noise, of several shapes, with ids: no two look alike to a random model."""

import numpy as np
from PIL import Image


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(1)
    return [
        Image.fromarray(generator.integers(0, 256, (40, 24 + 8 * row, 3), dtype=np.uint8))
        for row in range(count)
    ]


def names(count: int) -> list[str]:
    return [f"image-{row}" for row in range(count)]
