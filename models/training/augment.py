"""Augmentation of a whole batch at once, on whatever device it is."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def random_resized_crop(pixels: Tensor, smallest: float, flip: bool, generator: torch.Generator) -> Tensor:
    """A random crop of each image, scaled back to full size; same shape and dtype.

    Area between ``smallest`` and 1 of the image, aspect ratio between 3/4 and 4/3, as torchvision's and
    BLIP's RandomResizedCrop; bilinear instead of bicubic, because it is one fast kernel for the batch.
    ``flip`` mirrors half of the images. ``generator`` is a CPU generator.
    """
    if smallest >= 1.0 and not flip:
        return pixels
    rows = len(pixels)
    draws = torch.rand(5, rows, generator=generator)
    area = smallest + (1 - smallest) * draws[0]
    ratio = torch.exp((2 * draws[1] - 1) * math.log(4 / 3)) if smallest < 1.0 else torch.ones(rows)
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    mirror = torch.where(draws[4] < 0.5, -1.0, 1.0) if flip else torch.ones(rows)
    theta = torch.zeros(rows, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * mirror, height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * draws[2] - 1), (1 - height) * (2 * draws[3] - 1)
    grid = F.affine_grid(theta.to(pixels.device), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
