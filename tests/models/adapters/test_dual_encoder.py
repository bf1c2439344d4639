"""CLIP, SigLIP and SigLIP 2 against transformers' own forward, through its own processors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    CLIPProcessor,
    Siglip2Processor,
    SiglipProcessor,
)

from capfilt.models.adapters.dual_encoder import DualEncoder
from capfilt.models.checkpoint import locate
from tests.adapter_checkpoints import Made
from tests.models.drawn_images import pictures

torch.set_num_threads(1)

PROCESSORS: dict[str, Any] = {"clip": CLIPProcessor, "siglip": SiglipProcessor, "siglip2": Siglip2Processor}
TEXTS = ["a red dog", "two cats on the beach near a small boat", "blue house", "a"]


def opened(where: Path, batch: int = 3) -> DualEncoder:
    return DualEncoder.open(locate(str(where)), batch=batch)


def logits_of(name: str, where: Path) -> np.ndarray:
    """Transformers' own ``logits_per_image``, shape (4, texts)."""
    processor = PROCESSORS[name](
        AutoImageProcessor.from_pretrained(where), AutoTokenizer.from_pretrained(where)
    )
    padding: dict[str, Any] = (
        {"padding": True} if name == "clip" else {"padding": "max_length", "max_length": 16}
    )
    if name == "siglip2":
        padding |= {"patch_size": 8, "max_num_patches": 16}
    inputs = dict(processor(text=TEXTS, images=pictures(4), return_tensors="pt", **padding))
    if name != "clip":  # trained without
        inputs.pop("attention_mask", None)
    inputs.pop("token_type_ids", None)
    model = AutoModel.from_pretrained(where).eval()
    with torch.inference_mode():
        return model(**inputs).logits_per_image.double().numpy()


@pytest.mark.parametrize("name", PROCESSORS)
def test_scores_are_transformers_own(adapter_checkpoint: Made, name: str) -> None:
    logits = logits_of(name, adapter_checkpoint(name))
    encoder = opened(adapter_checkpoint(name))
    scale, bias = (
        encoder.model.logit_scale.exp().item(),
        getattr(encoder.model, "logit_bias", torch.zeros(1)).item(),
    )
    cosine = (logits - bias) / scale
    ours = np.array(encoder.match(pictures(4), [TEXTS] * 4))
    assert np.allclose(ours[..., 1], cosine, atol=1e-5)
    probability = (1 + cosine) / 2 if name == "clip" else 1 / (1 + np.exp(-logits))
    assert np.allclose(ours[..., 0], probability, atol=1e-5)
    assert np.ptp(cosine) > 0.05  # or the comparison would prove nothing


@pytest.mark.parametrize("name", PROCESSORS)
def test_embeddings_are_what_is_compared(adapter_checkpoint: Made, name: str) -> None:
    encoder, images = opened(adapter_checkpoint(name)), pictures(4)
    seen, read = encoder.embed_images(images), encoder.embed_texts(TEXTS)
    assert seen.dtype == read.dtype == np.float32
    assert np.allclose(np.linalg.norm(seen, axis=1), 1, atol=1e-5)
    ours = encoder.match(images, [TEXTS] * 4)
    assert np.allclose(seen @ read.T, [[match.itc for match in row] for row in ours], atol=1e-5)
    assert encoder.embed_images([]).shape == encoder.embed_texts([]).shape == (0, seen.shape[1])


@pytest.mark.parametrize("name", PROCESSORS)
def test_scores_do_not_depend_on_the_company(adapter_checkpoint: Made, name: str) -> None:
    images, texts = pictures(5), [TEXTS, TEXTS[:1], [], TEXTS[1:], TEXTS]
    together = opened(adapter_checkpoint(name), batch=100).match(images, texts)
    assert [len(row) for row in together] == [4, 1, 0, 3, 4]
    alone = opened(adapter_checkpoint(name), batch=2)
    for image, own, row in zip(images, texts, together, strict=True):
        assert np.allclose(alone.match([image], [own])[0], row, atol=1e-5)


def test_an_order_by_clips_figure_is_the_order_by_cosine(adapter_checkpoint: Made) -> None:
    matches = opened(adapter_checkpoint("clip")).match(pictures(1), [TEXTS])[0]
    assert sorted(matches) == sorted(matches, key=lambda match: match.itc)
    assert all(0 <= match.itm <= 1 and match.itc == pytest.approx(2 * match.itm - 1) for match in matches)


def test_texts_are_read_normalised_and_cut_at_the_models_length(adapter_checkpoint: Made) -> None:
    encoder = opened(adapter_checkpoint("siglip"))
    same = encoder.embed_texts(["A (red) dog!", "a red dog"])
    assert np.allclose(same[0], same[1], atol=1e-6)
    assert encoder.embed_texts(["dog " * 40]).shape == (1, 32)
