"""The image encoder: a stem that cuts the image into tokens, then a pre-norm ViT (BLIP, section 3.1).

Names follow Hugging Face's BLIP, so that a state dict with the ``patch`` stem is theirs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from capfilt.models.med.activation import activation
from capfilt.models.med.attention import KeyValue, attend, split_heads
from capfilt.models.med.config import MedConfig


class ConvStem(nn.Sequential):
    """(n, 3, size, size) to (n, width, size / patch, size / patch): each halving with one more 3x3.

    BatchNorm is what makes it start: with GroupNorm, or with one strided convolution, training from scratch
    on noisy pairs stays at chance for the time a laptop has.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths[:-1]), widths, strict=True):
            for source, stride in ((before, 2), (after, 1)):
                layers += [
                    nn.Conv2d(source, after, 3, stride, 1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                ]
        super().__init__(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter faster on CPUs

    def forward(self, pixels: Tensor) -> Tensor:
        cells: Tensor = super().forward(  # type: ignore[no-untyped-call]
            pixels.contiguous(memory_format=torch.channels_last)
        )
        return cells


class VisionEmbeddings(nn.Module):
    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position_embedding = nn.Parameter(torch.randn(1, config.patches + 1, width) * 0.02)
        self.patch_embedding: nn.Module = (
            ConvStem((*config.stem_widths, width))
            if config.stem == "conv"
            else nn.Conv2d(3, width, config.patch, config.patch)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        start = self.class_embedding.expand(len(pixels), -1, -1)
        return torch.cat([start, patches], 1) + self.position_embedding


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + old * old, width) for ``side * side`` patches: bicubic, as BLIP does it when
    it goes from 224 to 384 px; that of [CLS] stays."""
    old = round((positions.shape[1] - 1) ** 0.5)
    if old == side:
        return positions
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


class VisionAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(states).chunk(3, -1))
        dropout = self.dropout if self.training else 0.0
        projected: Tensor = self.projection(attend(query, KeyValue(key, value), dropout=dropout))
        return projected


class VisionMlp(nn.Module):
    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.vision_width, config.vision_hidden)
        self.fc2 = nn.Linear(config.vision_hidden, config.vision_width)
        self.activation = activation(config.vision_act)

    def forward(self, states: Tensor) -> Tensor:
        mixed: Tensor = self.fc2(self.activation(self.fc1(states)))
        return mixed


class VisionLayer(nn.Module):
    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        width, eps = config.vision_width, config.vision_eps
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.self_attn = VisionAttention(width, config.vision_heads, config.vision_dropout)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = VisionMlp(config)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.self_attn(self.layer_norm1(states))
        mixed: Tensor = states + self.mlp(self.layer_norm2(states))
        return mixed


class VisionEncoder(nn.Module):
    recompute = False  # in training, a layer's activations in the backward pass instead of keeping them

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.vision_layers))

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layers:
            if self.recompute and self.training:
                states = checkpoint(layer, states, use_reentrant=False)
            else:
                states = layer(states)
        return states


class VisionModel(nn.Module):
    """Pixels (n, 3, size, size), float32, to states (n, 1 + patches, width); position 0 is [CLS]."""

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.vision_width, eps=config.vision_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        states: Tensor = self.post_layernorm(self.encoder(self.embeddings(pixels)))
        return states
