from dataclasses import replace

import pytest
import torch

from capfilt.models.engine import vision
from capfilt.models.engine.linear import Arithmetic
from capfilt.models.engine.vision import PackedVisionEncoder
from capfilt.models.med.model import Med


@pytest.mark.parametrize("stem", ["conv", "patch"])
@pytest.mark.parametrize("tokens", [1, 12, 1200])
@torch.inference_mode()
def test_states_are_the_models_own(
    model: Med, monkeypatch: pytest.MonkeyPatch, stem: str, tokens: int
) -> None:
    monkeypatch.setattr(vision, "_TOKENS", tokens)
    if stem == "patch":
        torch.manual_seed(0)
        model = Med(replace(model.config, stem="patch", stem_widths=(), patch=8)).eval()
    pixels = torch.randn(5, 3, 32, 32)
    encoder = PackedVisionEncoder(model, Arithmetic("fp32", "cpu"))
    expected = model.encode_images(pixels)
    assert torch.allclose(encoder.see(pixels), expected, atol=1e-5)
    half = PackedVisionEncoder(model, Arithmetic("bf16", "cpu")).see(pixels)
    assert half.dtype is torch.bfloat16
    assert (half - expected).abs().max() < 0.2
