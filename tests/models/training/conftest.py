from dataclasses import replace

import numpy as np
import pytest
import torch

from capfilt.models.med.config import preset
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.training.pairs import PairSet

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230), "white": (240, 240, 240)}
COLOURS["yellow"] = (230, 220, 40)


def coloured_pairs(count: int) -> PairSet:
    """Images of one colour above another, captioned as such: all pairs of colours in turn, 32 px."""
    names = list(COLOURS)
    combinations = [(upper, lower) for upper in names for lower in names if upper != lower]
    chosen = [combinations[number % len(combinations)] for number in range(count)]
    images = np.zeros((count, 32, 32, 3), dtype=np.uint8)
    for number, (upper, lower) in enumerate(chosen):
        images[number, :16], images[number, 16:] = COLOURS[upper], COLOURS[lower]
    texts = [[f"{upper} above {lower}"] for upper, lower in chosen]
    return PairSet(images, texts, [f"image-{number}" for number in range(count)])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pairs() -> PairSet:
    return coloured_pairs(48)


@pytest.fixture(scope="session")
def tokenizer(pairs: PairSet) -> CaptionTokenizer:
    return CaptionTokenizer.train([*(text for own in pairs.own for text in own), "a picture of"], 100)


def few(pairs: PairSet) -> PairSet:
    """So few to validate with that they prove nothing."""
    return PairSet(pairs.images[:20], pairs.own[:20], pairs.image_ids[:20])


def small_model(tokenizer: CaptionTokenizer) -> Med:
    """32 px, 4 patches, 2 layers of width 32."""
    sizes = {"vision_width": 32, "text_width": 32, "vision_hidden": 64, "text_hidden": 64, "projection": 16}
    ids = {name: getattr(tokenizer, name) for name in ("pad", "cls", "sep", "dec", "enc")}
    torch.manual_seed(0)
    return Med(
        replace(
            preset("tiny"), image_size=32, stem_widths=(8, 8, 16), vocabulary=tokenizer.size, **sizes, **ids
        )
    )


@pytest.fixture
def model(tokenizer: CaptionTokenizer) -> Med:
    return small_model(tokenizer)
