"""What the engine's tests look at: images, their names, and pixels as transformers prepares them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from capfilt.models.engine.captioner import EngineCaptioner
from capfilt.models.engine.matcher import EngineMatcher
from capfilt.models.med.checkpoint import load
from capfilt.models.protocols import FLOAT32, Inference

torch.set_num_threads(1)

TEXTS = ["a red dog", "two cats on the beach near a small boat", "blue house", "a"]


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(1)
    return [
        Image.fromarray(generator.integers(0, 256, (40, 24 + 8 * row, 3), dtype=np.uint8))
        for row in range(count)
    ]


def pixels_of(directory: Path, images: list[Image.Image]) -> torch.Tensor:
    """As transformers' own processor prepares them."""
    processor = BlipImageProcessorPil.from_pretrained(directory)
    pixels: torch.Tensor = processor(images, return_tensors="pt")["pixel_values"]
    return pixels


def names(count: int) -> list[str]:
    return [f"image-{row}" for row in range(count)]


def open_captioner(where: Path, batch: int = 16, inference: Inference = FLOAT32) -> EngineCaptioner:
    return EngineCaptioner(*load(where), inference, batch=batch)


def open_matcher(where: Path, batch: int = 16, inference: Inference = FLOAT32) -> EngineMatcher:
    return EngineMatcher(*load(where), inference, batch=batch)


def their_tokenizer(where: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(where)
