"""CLIP and SigLIP: an image encoder and a text encoder whose cosine says how well they fit.

Both are baselines of filtering (DataComp ranks by CLIP) and good embedders; they have no matching head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AutoModel

from capfilt.models.adapters.pretrained import (
    count_truncated,
    load_image_processor,
    load_model,
    load_tokenizer,
)
from capfilt.models.batching import batches, match_in_batches
from capfilt.models.checkpoint import Checkpoint
from capfilt.models.protocols import Images, Match
from capfilt.models.text.normalise import normalise_caption


@dataclass(frozen=True)
class DualEncoder:
    """A :class:`~capfilt.models.protocols.Matcher` and :class:`~capfilt.models.protocols.Embedder`.

    ``Match.itm`` of SigLIP (arXiv 2303.15343, 2502.14786) is its own probability of a match, the sigmoid of the
    scaled and shifted cosine that it was trained with. CLIP (arXiv 2103.00020) was trained to rank the texts of
    a batch, so it gives no probability of one pair, and none is made up: ``itm`` is (1 + cosine) / 2, which
    keeps the order and the way back. A threshold for it has to come from the data: calibrated, or a fraction.
    """

    model: Any
    image_processor: Any
    tokenizer: Any
    batch: int

    @classmethod
    def open(cls, checkpoint: Checkpoint, device: str = "cpu", batch: int = 16) -> "DualEncoder":
        """Raises :class:`ModelError` if weights are missing, or the tokenizer or preprocessor is unfit."""
        model = load_model(AutoModel, checkpoint).to(device)
        tokenizer = load_tokenizer(checkpoint, model.config.text_config, special=())
        return cls(model, load_image_processor(checkpoint), tokenizer, batch)

    @property
    def _bias(self) -> torch.Tensor | None:
        """SigLIP's learned shift of the scaled cosine; CLIP has none."""
        return getattr(self.model, "logit_bias", None)

    @torch.inference_mode()
    def match(self, images: Images, texts: Sequence[Sequence[str]]) -> list[list[Match]]:
        """Each image is seen once."""
        return match_in_batches(images, texts, self.batch, self._see, self._judge)

    @torch.inference_mode()
    def embed_images(self, images: Images) -> NDArray[np.float32]:
        return self._stack([self._see(chunk) for chunk in batches(images, self.batch)])

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._stack([self._read(chunk) for chunk in batches(texts, self.batch)])

    @property
    def temperature(self) -> float:
        return float(1.0 / self.model.logit_scale.double().exp())

    def count_truncated(self, texts: Sequence[str]) -> int:
        return count_truncated(self.tokenizer, texts, self.model.config.text_config.max_position_embeddings)

    def _see(self, images: Images) -> torch.Tensor:
        """Shape (images, dim), L2-normalised."""
        pixels = self.image_processor(images=list(images), return_tensors="pt").to(self.model.device)
        return F.normalize(self.model.get_image_features(**pixels).pooler_output, dim=-1)

    def _read(self, texts: Sequence[str]) -> torch.Tensor:
        """Shape (texts, dim), L2-normalised. SigLIP saw texts padded to its full length, without a mask."""
        whole = self._bias is not None
        read = self.tokenizer(
            [normalise_caption(text) for text in texts],
            padding="max_length" if whole else True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)
        mask = None if whole else read["attention_mask"]
        found = self.model.get_text_features(input_ids=read["input_ids"], attention_mask=mask)
        return F.normalize(found.pooler_output, dim=-1)

    def _judge(self, seen: torch.Tensor, rows: list[int], texts: list[str]) -> list[Match]:
        cosine = (seen[rows] * self._read(texts)).sum(1).double().clamp(-1.0, 1.0)
        if self._bias is None:
            itm = (1.0 + cosine) / 2.0
        else:
            itm = torch.sigmoid(self.model.logit_scale.double().exp() * cosine + self._bias.double())
        return [Match(*pair) for pair in zip(itm.tolist(), cosine.tolist(), strict=True)]

    def _stack(self, parts: list[torch.Tensor]) -> NDArray[np.float32]:
        if not parts:
            parts = [self._read([""])[:0]]
        return torch.cat(parts).cpu().numpy().astype(np.float32, copy=False)
