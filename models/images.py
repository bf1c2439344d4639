"""Images on their way into a model: bytes to RGB pictures, pictures to tensors.

The preparation is BLIP's evaluation transform: a bicubic resize to a square (aspect ratio not kept), then
CLIP's mean and standard deviation. It runs on Pillow alone, so it does not depend on whether torchvision is
installed (transformers picks another back end then, and pixels differ by up to 0.015).
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from models.checkpoint import CLIP_MEAN, CLIP_STD

RGB = tuple[float, ...]


class UndecodableImage(ValueError):  # noqa: N818 (a state of the image, as in its reject reason)
    """Bytes that are not a whole, readable image; the message is a short reason."""


def decode(data: bytes) -> Image.Image:
    """The picture in ``data`` as RGB: upright by its EXIF orientation, transparency on white, first frame.

    Raises :class:`UndecodableImage` for bytes that are no image, truncated or corrupt, and for images over
    Pillow's pixel limit. Safe to call from several threads.
    """
    if not data:
        raise UndecodableImage("no bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError  # Pillow itself only warns up to twice its limit
            image.load()
            return _on_white(_upright(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UndecodableImage("too many pixels (possible decompression bomb)") from error
    except UnidentifiedImageError as error:
        raise UndecodableImage("not an image in a known format") from error
    except MemoryError:
        raise  # the machine's fault, not the image's
    except Exception as error:  # Pillow's plugins raise almost anything on hostile bytes
        raise UndecodableImage(f"{type(error).__name__}: {error}"[:200]) from error


class DecodedPictures:
    """Pictures of one shard, each decoded once for all the stages that a worker runs on it one after the other.

    At most ``limit`` bytes of them, as RGB; what comes after is decoded each time.
    """

    def __init__(self, limit: int = 2**30) -> None:
        self._limit, self._held, self._shard = limit, 0, ""
        self._pictures: dict[str, Image.Image] = {}

    def begin(self, shard: str) -> None:
        """The next pictures are of this shard; another one's are forgotten."""
        if shard != self._shard:
            self._pictures.clear()
            self._shard, self._held = shard, 0

    def __call__(self, image_id: str, data: bytes) -> Image.Image:
        """:func:`decode` of ``data``, whose sha256 is ``image_id``."""
        if image_id in self._pictures:
            return self._pictures[image_id]
        picture = decode(data)
        size = picture.width * picture.height * 3
        if self._held + size <= self._limit:
            self._held += size
            self._pictures[image_id] = picture
        return picture


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


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF is no reason to lose the picture
        return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 bits or more: convert() would clip to white, so scale first
        return _eight_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    canvas = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(canvas, layer).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float32)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = 65535.0 if image.mode.startswith("I") else 1.0
    if values.max(initial=0.0) > top or image.mode == "F":
        top = max(float(values.max(initial=0.0)), 1e-12)
    return Image.fromarray(np.clip(values / top * 255.0, 0, 255).astype(np.uint8), mode=None)
