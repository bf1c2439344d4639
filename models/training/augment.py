"""Augmentation: RandAugment image by image, then crops of a whole batch at once, on whatever device it is."""

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from capfilt.models.training.settings import LoopSettings

MAGNITUDE = 5  # of 10, as BLIP's RandAugment(2, 5)


@dataclass(frozen=True)
class Crop:
    """A random crop of each image of a batch, scaled back to full size.

    Area between ``settings.crop`` and 1 of the image, aspect ratio between 3/4 and 4/3, as torchvision's and
    BLIP's RandomResizedCrop; bilinear instead of bicubic, because it is one fast kernel for the batch.
    ``settings.flip`` mirrors half of the images. ``theta`` (rows, 2, 3) maps coordinates; ``None``: no change.
    """

    theta: Tensor | None

    @classmethod
    def draw(cls, rows: int, settings: "LoopSettings", number: int) -> "Crop":
        """For batch ``number``: the same whatever ran before."""
        smallest, flip = settings.crop, settings.flip
        if smallest >= 1.0 and not flip:
            return cls(None)
        draws = torch.rand(5, rows, generator=torch.Generator().manual_seed(settings.seed + 7919 * number))
        area = smallest + (1 - smallest) * draws[0]
        ratio = torch.exp((2 * draws[1] - 1) * math.log(4 / 3)) if smallest < 1.0 else torch.ones(rows)
        width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
        mirror = torch.where(draws[4] < 0.5, -1.0, 1.0) if flip else torch.ones(rows)
        theta = torch.zeros(rows, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = width * mirror, height
        theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * draws[2] - 1), (1 - height) * (2 * draws[3] - 1)
        return cls(theta)

    def rows(self, first: int, count: int) -> "Crop":
        """The crops of some of the images."""
        return Crop(None if self.theta is None else self.theta[first : first + count])

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (rows, 3, size, size) cropped; same shape and dtype."""
        if self.theta is None:
            return pixels
        grid = F.affine_grid(self.theta.to(pixels.device), list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def randaugment(pixels: NDArray[np.uint8], operations: int, rng: Random) -> NDArray[np.uint8]:
    """BLIP's choice of RandAugment (Cubuk et al., arXiv 1909.13719): none that inverts or trades colours.

    ``operations`` of them in a row, drawn anew for each image (size, size, 3), uint8.
    """
    image = Image.fromarray(pixels)
    for _ in range(operations):
        image = _OPERATIONS[rng.randrange(len(_OPERATIONS))](image, rng.choice((-1.0, 1.0)))
    return np.asarray(image, dtype=np.uint8)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=(128, 128, 128))


_SHARE = MAGNITUDE / 10
_OPERATIONS = (
    lambda image, sign: image,
    lambda image, sign: ImageOps.autocontrast(image),
    lambda image, sign: ImageOps.equalize(image),
    lambda image, sign: ImageEnhance.Brightness(image).enhance(1 + sign * 0.9 * _SHARE),
    lambda image, sign: ImageEnhance.Sharpness(image).enhance(1 + sign * 0.9 * _SHARE),
    lambda image, sign: image.rotate(sign * 30 * _SHARE, fillcolor=(128, 128, 128)),
    lambda image, sign: _affine(image, 1, sign * 0.3 * _SHARE, 0, 0, 1, 0),
    lambda image, sign: _affine(image, 1, 0, 0, sign * 0.3 * _SHARE, 1, 0),
    lambda image, sign: _affine(image, 1, 0, sign * 0.1 * image.width * _SHARE, 0, 1, 0),
    lambda image, sign: _affine(image, 1, 0, 0, 0, 1, sign * 0.1 * image.height * _SHARE),
)
