"""Images on their way into a model: RGB images to tensors.

The preparation is BLIP's evaluation transform: a bicubic resize to a square (aspect ratio not kept), then
CLIP's mean and standard deviation. It runs on Pillow alone, so it does not depend on whether torchvision is
installed (transformers picks another back end then, and pixels differ by up to 0.015).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from capfilt.models.checkpoint import CLIP_MEAN, CLIP_STD

RGB = tuple[float, ...]


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """``image`` resized (bicubic) to a square; shape (size, size, 3), uint8."""
    resized = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def prepare(
    images: Sequence[Image.Image], size: int, mean: RGB = CLIP_MEAN, std: RGB = CLIP_STD
) -> torch.Tensor:
    """BLIP's evaluation transform; shape (images, 3, size, size), float32."""
    pixels = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for row, image in enumerate(images):
        pixels[row] = square(image, size)
    return normalise(torch.from_numpy(pixels), mean, std)


def normalise(pixels: torch.Tensor, mean: RGB = CLIP_MEAN, std: RGB = CLIP_STD) -> torch.Tensor:
    """Pixels (n, height, width, 3), uint8, to a model's input: (n, 3, height, width), float32."""
    scaled = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
    centre = torch.tensor(mean, device=pixels.device).view(1, 3, 1, 1)
    spread = torch.tensor(std, device=pixels.device).view(1, 3, 1, 1)
    return scaled.sub_(centre).div_(spread).contiguous()
