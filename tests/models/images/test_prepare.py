import numpy as np
from PIL import Image

from capfilt.models.images.prepare import CLIP_MEAN, CLIP_STD, prepare, square


def test_square_and_prepare() -> None:
    image = Image.effect_noise((4, 2), 60).convert("RGB")
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
