import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from capfilt.models.images.perceptual_hash import bits, perceptual_hash


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A random image whose frequencies fall off as those of photographs do, as 1 / f."""
    width, height = size
    random = np.random.default_rng(seed)
    falling = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width)
    spectrum = np.fft.fft2(random.standard_normal((3, height, width))) / np.maximum(falling, 1)
    fields = np.fft.ifft2(spectrum).real
    fields = 128 + 50 * (fields - fields.mean()) / fields.std()
    return Image.fromarray(np.moveaxis(fields, 0, 2).clip(0, 255).astype(np.uint8))


def encoded(picture: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return Image.open(data)


def raw(found: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(found), np.uint8)[None]


def apart(one: Image.Image, other: Image.Image) -> int:
    return int(bits(raw(perceptual_hash(one)), raw(perceptual_hash(other)))[0])


@pytest.mark.parametrize("seed", range(5))
def test_copies_keep_their_hash_and_other_images_have_another(seed: int) -> None:
    picture = scene(seed)
    assert apart(picture, encoded(picture, 40)) <= 24
    assert apart(picture, ImageEnhance.Brightness(picture).enhance(0.85)) <= 24
    assert apart(picture, picture.resize((90, 68), Image.Resampling.BICUBIC)) <= 36
    assert apart(picture, picture.resize((180, 135), Image.Resampling.BICUBIC)) <= 36
    assert 24 < apart(picture, picture.crop((3, 2, 117, 88))) <= 72
    assert apart(picture, scene(seed + 100)) > 100


def test_a_image_of_one_colour_has_no_hash() -> None:
    for colour in ("white", "black", "red"):
        assert perceptual_hash(Image.new("RGB", (30, 20), colour)) == "0" * 64
    assert perceptual_hash(encoded(Image.new("RGB", (300, 200), (200, 30, 90)), 60)) == "0" * 64
    assert len(set(perceptual_hash(scene(1)))) > 4
