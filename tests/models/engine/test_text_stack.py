import pytest
import torch

from capfilt.models.engine.linear import Arithmetic
from capfilt.models.engine.text_stack import PackedTextStack, Packing
from capfilt.models.med.model import Med

TEXTS = [[2, 9, 3], [2, 10, 11, 12, 13, 3], [2, 14, 3], [2, 9, 10, 3]]


def padded(texts: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])


def test_packing_spreads_and_gathers() -> None:
    packing = Packing.of([[0, 1], [2], [3, 4, 5]], Arithmetic("bf16", "cpu"))
    states = torch.randn(6, 8)
    spread = packing.spread(states)
    assert spread.shape == (3, 3, 8)
    assert torch.equal(spread[2, 1], states[4])
    assert torch.equal(packing.gather(spread), states)
    assert packing.bias[1, 0, 0].tolist() == [0.0, -torch.inf, -torch.inf]
    assert Packing.of([[0, 1], [2]], Arithmetic("fp32", "cpu")).grid.shape == (2, 4)
    assert Packing.of([[0, 1], [2]], Arithmetic("bf16", "cpu"), step=8).grid.shape == (2, 8)


@pytest.mark.parametrize("few", [False, True])  # with keys and values, and without
@torch.inference_mode()
def test_first_states_are_the_encoders_own(model: Med, few: bool) -> None:
    with torch.no_grad():
        for layer in model.text_encoder.encoder.layers():
            layer.crossattention.self.value.bias.normal_()
            layer.crossattention.self.key.bias.normal_()
    stack = PackedTextStack(model.text_encoder, model.config, Arithmetic("fp32", "cpu"))
    ids = padded(TEXTS)
    alone, _ = model.text_encoder(ids, ids != 0)
    assert torch.allclose(stack.read(TEXTS), alone[:, 0], atol=1e-5)
    states = model.encode_images(torch.randn(3, 3, 32, 32))
    owners = [0, 2, 2, 1]
    image = [layer.rows(torch.tensor(owners)) for layer in model.text_encoder.image_keys_values(states)]
    looking, _ = model.text_encoder(ids, ids != 0, image)
    assert torch.allclose(stack.read(TEXTS, states, owners, few), looking[:, 0], atol=1e-5)
    assert not torch.allclose(looking, alone, atol=1e-2)
