import pytest
import torch
from torch.nn import functional as F

from capfilt.models.engine import attention as module
from capfilt.models.engine.attention import attention, plain, plain_in_cache


def states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("cache", [1, 1 << 14, 1 << 20])
def test_both_plain_paths_are_attention(monkeypatch: pytest.MonkeyPatch, cache: int) -> None:
    monkeypatch.setattr(module, "_CACHE", cache)
    query, key, value = states(2, 3, 70, 8), states(2, 3, 50, 8), states(2, 3, 50, 8)
    expected = F.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(plain(query, key, value), expected, atol=1e-5)
    assert torch.allclose(plain_in_cache(query, key, value), expected, atol=1e-5)


def test_a_bias_hides_keys() -> None:
    query, key, value = states(2, 3, 4, 8), states(2, 3, 5, 8), states(2, 3, 5, 8)
    bias = torch.zeros(2, 1, 1, 5)
    bias[1, ..., 3:] = -torch.inf
    found = plain(query, key, value, bias)
    assert torch.allclose(found[1], plain(query[1:], key[1:, :, :3], value[1:, :, :3])[0], atol=1e-6)


def test_the_device_alone_decides() -> None:
    """A timing would: twice as fast now and then, and a score has other last bits."""
    assert attention("cpu", plain) is plain
    assert attention("cuda:1", plain) is F.scaled_dot_product_attention
