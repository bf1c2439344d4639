"""Bytes to RGB images: the one definition of what an image is, for ingest, captions, scores and training.

Pillow alone, so that a process that decodes need not load torch.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from capfilt.data_contracts.rejects import Reason

# What the web shows. Pillow reads more, but some of it through other programs (EPS through Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_BEGINS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PIXELS = 89_478_485  # Pillow's own limit, which decoding for a model keeps as well


class UndecodableImage(ValueError):  # noqa: N818 (a state of the image, as in its reject reason)
    """Bytes that are not a whole, readable image; the message is a short explanation of ``reason``."""

    def __init__(self, detail: str, reason: Reason = Reason.UNREADABLE) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """Which images are taken, by their header: pixels in all, longer side by shorter side, shorter side."""

    max_pixels: int = MOST_PIXELS
    max_aspect: float = 20.0
    min_side: int = 8

    def check(self, width: int, height: int) -> None:
        """Raises :class:`UndecodableImage` with the limit that an image of this size breaks."""
        short, long = sorted((width, height))
        size = f"{width}x{height} pixels"
        if width * height > self.max_pixels:
            raise UndecodableImage(f"{size}, more than {self.max_pixels:,}", Reason.TOO_MANY_PIXELS)
        if long > self.max_aspect * short:
            raise UndecodableImage(f"{size}, beyond 1 to {self.max_aspect:g}", Reason.ASPECT)
        if short < self.min_side:
            raise UndecodableImage(f"{size}, less than {self.min_side}", Reason.TOO_SMALL)


class Measured(NamedTuple):
    """The format found in the bytes, such as JPEG, and the size of the upright image in pixels."""

    format: str
    width: int
    height: int


def decode(data: bytes) -> Image.Image:
    """The image in ``data`` as RGB: upright by its EXIF orientation, transparency on white, first frame.

    Raises :class:`UndecodableImage` for bytes that are no image, truncated or corrupt, and for images over
    Pillow's pixel limit. Safe to call from several threads.
    """
    with _opened(data) as image:
        if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError  # Pillow itself only warns up to twice its limit
        return _rgb(image)


def measure(data: bytes, limits: Limits) -> Measured:
    """What an image is, after it was decoded whole; its header is held against the limits before any pixel.

    Raises :class:`UndecodableImage` as :func:`decode` does, and for an image outside the limits.
    """
    with _opened(data) as image:
        limits.check(image.width, image.height)
        return Measured(image.format or "", *_rgb(image).size)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image with its header read; what goes wrong with it becomes :class:`UndecodableImage`."""
    if not data:
        raise UndecodableImage("no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UndecodableImage(
            "too many pixels (possible decompression bomb)", Reason.TOO_MANY_PIXELS
        ) from error
    except UnidentifiedImageError as error:
        if data.startswith(_BEGINS) or data[8:12] == b"WEBP" or data[4:8] == b"ftyp":
            raise UndecodableImage("its header is cut off or corrupt") from error
        raise UndecodableImage("not an image in a known format", Reason.NOT_IMAGE) from error
    except (UndecodableImage, MemoryError):
        raise  # lack of memory is the machine's fault, not the image's
    except Exception as error:  # Pillow's plugins raise almost anything on hostile bytes
        raise UndecodableImage(f"{type(error).__name__}: {error}"[:200]) from error


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    return _on_white(_upright(image))


class DecodedImages:
    """Images of one shard, each decoded once for all the stages that a worker runs on it one after the other.

    At most ``limit`` bytes of them, as RGB; what comes after is decoded each time.
    """

    def __init__(self, limit: int = 2**30) -> None:
        self._limit, self._held, self._shard = limit, 0, ""
        self._images: dict[str, Image.Image] = {}

    def begin(self, shard: str) -> None:
        """The next images are of this shard; another one's are forgotten."""
        if shard != self._shard:
            self._images.clear()
            self._shard, self._held = shard, 0

    def __call__(self, image_id: str, data: bytes) -> Image.Image:
        """:func:`decode` of ``data``, whose sha256 is ``image_id``."""
        if image_id in self._images:
            return self._images[image_id]
        image = decode(data)
        size = image.width * image.height * 3
        if self._held + size <= self._limit:
            self._held += size
            self._images[image_id] = image
        return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # unreadable EXIF is no reason to lose the image
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
    import numpy as np  # a tenth of a second that a process that decodes pays when it meets such an image

    values = np.asarray(image, dtype=np.float32)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = 65535.0 if image.mode.startswith("I") else 1.0
    if values.max(initial=0.0) > top or image.mode == "F":
        top = max(float(values.max(initial=0.0)), 1e-12)
    return Image.fromarray(np.clip(values / top * 255.0, 0, 255).astype(np.uint8), mode=None)
