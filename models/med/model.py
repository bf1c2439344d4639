"""MED, the multimodal mixture of encoder-decoder (BLIP, section 3.1): one model for ITC, ITM and LM."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.data_contracts.errors import ModelError
from capfilt.models.checkpoint import Role
from capfilt.models.med.attention import KeyValue, initialise
from capfilt.models.med.config import MedConfig
from capfilt.models.med.text import TextDecoder, TextModel
from capfilt.models.med.vision import VisionModel


class Med(nn.Module):
    """The image encoder, the text encoder and decoder, the ITC projections and temperature, the ITM head.

    A model of one role has that role's modules only; ask :meth:`require` before you use the others.
    """

    text_encoder: TextModel
    text_decoder: TextDecoder

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config)
        if "filter" in config.roles:
            self.text_encoder = TextModel(config)
        if "captioner" in config.roles:
            shared = config.shared and "filter" in config.roles
            self.text_decoder = TextDecoder(config, self.text_encoder if shared else None)
        if "filter" in config.roles:
            self.vision_proj = nn.Linear(config.vision_width, config.projection)
            self.text_proj = nn.Linear(config.text_width, config.projection)
            self.itm_head = nn.Linear(config.text_width, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))
        # BERT's 0.02 is for a width of 768; narrow layers need more to pass on as much
        for part, width in (("vision_", config.vision_width), ("", config.text_width)):
            for name, module in self.named_modules():
                if name.startswith("vision_") == bool(part):
                    initialise(module, 0.02 * math.sqrt(768 / width))

    def require(self, *roles: Role) -> None:
        """Raises :class:`ModelError` unless the model has the weights of these roles."""
        if lacking := [role for role in roles if role not in self.config.roles]:
            raise ModelError(
                what=f"this model cannot serve as the {lacking[0]}",
                evidence=f"it has the weights of a {' and '.join(self.config.roles)} only",
                remedy="give a checkpoint of that role, or one trained for both",
            )

    def temperature(self) -> Tensor:
        """The ITC temperature, clamped to [0.001, 0.5] at every use, as in BLIP."""
        return self.temp.clamp(0.001, 0.5)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """States (n, 1 + patches, width) of ``pixels`` (n, 3, size, size), float32."""
        states: Tensor = self.vision_model(pixels)
        return states

    def embed_images(self, states: Tensor) -> Tensor:
        """ITC embeddings (n, projection) of image states, L2-normalised."""
        return F.normalize(self.vision_proj(states[:, 0]), dim=-1)

    def embed_texts(self, ids: Tensor) -> Tensor:
        """ITC embeddings (rows, projection) of ``ids`` (rows, length) that start with [CLS],
        L2-normalised."""
        states, _ = self.text_encoder(ids, ids != self.config.pad)
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)

    def match(self, ids: Tensor, image: list[KeyValue]) -> Tensor:
        """ITM logits (rows, 2), index 1 = match. ``ids`` start with [ENC]; image rows as in ``attend``."""
        states, _ = self.text_encoder(ids, ids != self.config.pad, image)
        logits: Tensor = self.itm_head(states[:, 0])
        return logits
