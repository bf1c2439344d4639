import io

import numpy as np
import pytest
from PIL import Image

from capfilt.data_contracts.rejects import Reason
from capfilt.models.images.decode import Limits, Measured, UndecodableImage, decode, measure

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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.UNREADABLE),
        (b"<!doctype html><title>404</title>", Reason.NOT_IMAGE),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>', Reason.NOT_IMAGE),
        (b"%PDF-1.7", Reason.NOT_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Reason.NOT_IMAGE),  # Ghostscript stays out
        (encode(two_halves(), "PPM"), Reason.NOT_IMAGE),
        (encode(two_halves(), "JPEG")[:20], Reason.UNREADABLE),
        (encode(two_halves(), "PNG")[:20], Reason.UNREADABLE),
        (encode(two_halves(), "WEBP")[:14], Reason.UNREADABLE),
        (encode(Image.effect_noise((64, 64), 50), "JPEG")[:700], Reason.UNREADABLE),
    ],
)
def test_what_is_no_image_is_told_from_what_is_a_broken_one(data: bytes, reason: Reason) -> None:
    with pytest.raises(UndecodableImage) as caught:
        measure(data, Limits(min_side=1))
    assert caught.value.reason is reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_of_the_web_is_measured(kind: str) -> None:
    assert measure(encode(Image.new("RGB", (40, 30)), kind), Limits()) == Measured(kind, 40, 30)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encode(
        frames[0],
        kind,
        save_all=True,
        append_images=frames[1:],
        **{"lossless": True} if kind == "WEBP" else {},
    )
    assert decode(data).getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((40, 30), None),
        ((41, 30), Reason.TOO_MANY_PIXELS),
        ((30, 10), None),
        ((10, 31), Reason.ASPECT),
        ((9, 10), Reason.TOO_SMALL),
    ],
)
def test_limits_are_held_against_the_header(size: tuple[int, int], reason: Reason | None) -> None:
    limits, whole = Limits(max_pixels=1200, max_aspect=3.0, min_side=10), encode(Image.effect_noise(size, 50))
    if reason is None:
        assert measure(whole, limits) == Measured("PNG", *size)
        return
    for data in (whole, whole[:60]):  # there are no pixels in the first 60 bytes
        with pytest.raises(UndecodableImage) as caught:
            measure(data, limits)
        assert caught.value.reason is reason


def test_a_image_that_ingest_takes_is_one_that_captioning_decodes() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert Limits().max_pixels <= Image.MAX_IMAGE_PIXELS
