"""The image encoder of the engine."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.models.engine.attention import Attend, attention, plain, plain_in_cache
from capfilt.models.engine.linear import Arithmetic, join
from capfilt.models.med.config import MedConfig
from capfilt.models.med.model import Med
from capfilt.models.med.vision import VisionLayer

# Image tokens at a time: enough for the matrix products to run at full speed, few enough to stay in the cache.
_TOKENS = 1200
# Queries an image from which on their scores are kept in the cache.
_MANY = 64


class PackedVisionLayer:
    def __init__(self, layer: VisionLayer, config: MedConfig, arithmetic: Arithmetic, attend: Attend) -> None:
        self.heads, self.attend = config.vision_heads, attend
        self.norm1, self.norm2 = arithmetic.norm(layer.layer_norm1), arithmetic.norm(layer.layer_norm2)
        self.qkv = arithmetic.linear(layer.self_attn.qkv)
        self.projection = arithmetic.linear(layer.self_attn.projection)
        self.fc1 = arithmetic.linear(layer.mlp.fc1, act=config.vision_act)
        self.fc2 = arithmetic.linear(layer.mlp.fc2)

    def __call__(self, states: Tensor, images: int) -> Tensor:
        """States (images * positions, width), before and after."""
        rows, width = states.shape
        parts = self.qkv(self.norm1(states)).view(images, -1, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        context = self.attend(query, key, value).transpose(1, 2).reshape(rows, width)
        states = self.projection(context, states)
        return self.fc2(self.fc1(self.norm2(states)), states)


class PackedVisionEncoder:
    """Pixels to image states, a few images at a time."""

    def __init__(self, model: Med, arithmetic: Arithmetic) -> None:
        config, vision = model.config, model.vision_model
        self.arithmetic, self.config = arithmetic, config
        embeddings = vision.embeddings
        self.start = arithmetic.tensor(embeddings.class_embedding + embeddings.position_embedding[:, :1])
        self.positions = arithmetic.tensor(embeddings.position_embedding[:, 1:])
        self.stem = embeddings.patch_embedding.to(arithmetic.device)
        if config.stem == "patch":
            self.patches = arithmetic.linear(_as_linear(embeddings.patch_embedding), exact=True)
        attend = attention(arithmetic.device, _on_cpu(config.patches + 1, arithmetic.dtype))
        layers = cast(Iterable[VisionLayer], vision.encoder.layers)
        self.layers = [PackedVisionLayer(layer, config, arithmetic, attend) for layer in layers]
        self.norm = arithmetic.norm(vision.post_layernorm)

    def see(self, pixels: Tensor) -> Tensor:
        """States (n, 1 + patches, width), in the engine's precision, of ``pixels`` (n, 3, size, size), float32."""
        some = max(1, _TOKENS // (self.config.patches + 1))
        return join([self._see(pixels[start : start + some]) for start in range(0, len(pixels), some)])

    def _see(self, pixels: Tensor) -> Tensor:
        n = len(pixels)
        patches = self._cut(pixels.to(self.arithmetic.device)) + self.positions
        states = torch.cat([self.start.expand(n, -1, -1), patches], 1)
        shape = states.shape
        states = states.reshape(-1, shape[-1])
        for layer in self.layers:
            states = layer(states, n)
        return self.norm(states).view(shape)

    def _cut(self, pixels: Tensor) -> Tensor:
        """Patch embeddings (n, patches, width)."""
        n, width = len(pixels), self.config.vision_width
        if self.config.stem != "patch":
            cells: Tensor = self.stem(pixels)
            return cells.flatten(2).transpose(1, 2).to(self.arithmetic.dtype)
        side, patch = self.config.image_size // self.config.patch, self.config.patch
        cut = pixels.to(self.arithmetic.dtype).view(n, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
        return self.patches(cut.reshape(n * side * side, -1)).view(n, side * side, width)


def _on_cpu(positions: int, dtype: torch.dtype) -> Attend:
    if dtype is torch.float32:
        return F.scaled_dot_product_attention
    return plain_in_cache if positions > _MANY else plain


def _as_linear(module: nn.Module) -> nn.Linear:
    """A convolution whose strides are its size is one matrix product of flattened patches."""
    assert isinstance(module, nn.Conv2d)
    assert module.bias is not None
    linear = nn.Linear(module.weight[0].numel(), module.out_channels, device="meta")
    linear.weight, linear.bias = nn.Parameter(module.weight.flatten(1)), nn.Parameter(module.bias)
    return linear
