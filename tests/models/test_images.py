import io

import numpy as np
import pytest
from PIL import Image

from models.images import CLIP_MEAN, CLIP_STD, UndecodableImage, decode, prepare, square

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def two_halves() -> Image.Image:
    image = Image.new("RGB", (4, 2), RED)
    image.paste(BLUE, (2, 0, 4, 2))
    return image


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF"])
def test_decodes_to_rgb(kind: str) -> None:
    image = decode(encode(two_halves(), kind))
    assert image.mode == "RGB"
    assert image.size == (4, 2)
    assert (image.getpixel((0, 0)), image.getpixel((3, 1))) == (RED, BLUE)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    image = decode(encode(two_halves(), "PNG", exif=exif.tobytes()))
    assert image.size == (2, 4)
    assert (image.getpixel((0, 0)), image.getpixel((0, 3))) == (RED, BLUE)


def test_transparency_shows_white() -> None:
    clear = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
    assert decode(encode(clear)).getpixel((0, 0)) == WHITE


def test_palette_with_a_transparent_entry_shows_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    decoded = decode(encode(image, "PNG", transparency=1))
    assert (decoded.getpixel((0, 0)), decoded.getpixel((1, 0))) == (RED, WHITE)


def test_grey_cmyk_and_two_bit_images() -> None:
    assert decode(encode(Image.new("L", (1, 1), 128))).getpixel((0, 0)) == (128, 128, 128)
    assert decode(encode(Image.new("1", (1, 1), 1))).getpixel((0, 0)) == WHITE
    assert decode(encode(Image.new("CMYK", (8, 8)), "JPEG")).getpixel((0, 0)) == WHITE


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    decoded = decode(encode(deep))
    assert [decoded.getpixel((x, 0))[0] for x in range(3)] == pytest.approx([0, 127, 255], abs=1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no bytes"),
        (b"<html>not found</html>", "not an image"),
        (encode(Image.effect_noise((64, 64), 50))[:900], "truncated"),
    ],
)
def test_undecodable_bytes_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableImage, match=reason):
        decode(data)


def test_every_corruption_is_undecodable_or_an_image() -> None:
    whole = encode(Image.effect_noise((32, 32), 80).convert("RGB"), "JPEG")
    generator = np.random.default_rng(0)
    refused = []
    for _ in range(200):
        bad = bytearray(whole)
        for place in generator.integers(0, len(bad), 8):
            bad[place] = generator.integers(256)
        try:
            decode(bytes(bad))
        except UndecodableImage as error:
            refused.append(str(error))
    assert refused
    assert all(0 < len(reason) <= 200 for reason in refused)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(encode(Image.new("RGB", (10, 10)))).size == (10, 10)
    for side in (11, 20):  # Pillow warns above its limit and raises above twice that
        with pytest.raises(UndecodableImage, match="bomb"):
            decode(encode(Image.new("RGB", (side, side))))


def test_a_machine_short_of_memory_does_not_condemn_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", short)
    with pytest.raises(MemoryError):
        decode(encode(two_halves()))


def test_square_and_prepare() -> None:
    image = two_halves()
    array = square(image, 6)
    assert array.shape == (6, 6, 3)
    assert array.dtype == np.uint8
    tensor = prepare([image, image], 6)
    assert tuple(tensor.shape) == (2, 3, 6, 6)
    centred = array.transpose(2, 0, 1) / 255 - np.reshape(CLIP_MEAN, (3, 1, 1))
    expected = centred / np.reshape(CLIP_STD, (3, 1, 1))
    assert np.allclose(tensor[1].numpy(), expected, atol=1e-6)
    assert tuple(prepare([], 6).shape) == (0, 3, 6, 6)


def test_prepare_is_the_transform_of_transformers() -> None:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    image = Image.effect_noise((50, 31), 60).convert("RGB")
    processor = BlipImageProcessorPil(size={"height": 24, "width": 24})
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    assert np.allclose(prepare([image], 24).numpy(), theirs.numpy(), atol=1e-5)
