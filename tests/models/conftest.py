from dataclasses import replace

import pytest
import torch

from capfilt.models.med.config import MedConfig, preset
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer

CORPUS = [
    "a red square",
    "a blue circle above a green square",
    "a green circle left of a red circle",
    "untitled",
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer.train([*CORPUS, "a picture of"] * 2, 200)


def small_config(tokenizer: CaptionTokenizer) -> MedConfig:
    """Small enough for a float64 reference to be quick; 32 px, 4 patches, 2 layers of width 32."""
    sizes = {"vision_width": 32, "text_width": 32, "vision_hidden": 64, "text_hidden": 64, "projection": 16}
    ids = {name: getattr(tokenizer, name) for name in ("pad", "cls", "sep", "dec", "enc")}
    return replace(
        preset("tiny"), image_size=32, stem_widths=(8, 8, 16), vocabulary=tokenizer.size, **sizes, **ids
    )


@pytest.fixture
def model(tokenizer: CaptionTokenizer) -> Med:
    torch.manual_seed(0)
    model = Med(small_config(tokenizer)).eval()
    with torch.no_grad():  # louder than at birth, so that captions differ between images
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 2.0
    return model
