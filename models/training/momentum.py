"""The momentum encoders, queue and soft targets of ITC (ALBEF, arXiv 2107.07651, as BLIP uses them)."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.models.med.model import Med
from capfilt.models.training.objectives import itc_targets, same_pairs


class MomentumTeacher(nn.Module):
    """An exponential moving average of the model, and the last ``size`` pairs it embedded.

    The soft target is ``alpha * softmax(teacher's similarity) + (1 - alpha) * positives``. Keys in the queue
    let later occurrences of an image or text count as positives. It is a module, so a checkpoint saves all of
    it.
    """

    def __init__(self, model: Med, size: int, decay: float = 0.995) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.size = decay, size
        self.images: Tensor
        self.texts: Tensor
        self.keys: Tensor
        device = model.temp.device
        noise = torch.Generator().manual_seed(
            0
        )  # of its own, so that a run does not depend on what ran before
        for name in ("images", "texts"):
            rows = torch.randn(size, model.config.projection, generator=noise)
            self.register_buffer(name, F.normalize(rows, dim=1).to(device))
        self.register_buffer("keys", torch.full((size, 2), -1, device=device))

    @torch.no_grad()
    def update(self, model: Med) -> None:
        """Move towards ``model``; BLIP does so before the forward pass. Batch statistics are copied."""
        for mine, its in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(its, 1 - self.decay)
        for kept, current in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(current)

    @torch.no_grad()
    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's embeddings of a batch's images and texts, (rows, projection) each."""
        images = self.model.embed_images(self.model.encode_images(pixels))
        return images, self.model.embed_texts(ids)

    def candidates(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Images and texts to compare with: the batch's own first, then the queue; no gradient."""
        return torch.cat([batch[0], self.images]), torch.cat([batch[1], self.texts])

    def targets(
        self,
        own: tuple[Tensor, Tensor],
        batch: tuple[Tensor, Tensor],
        own_keys: Tensor,
        keys: Tensor,
        temperature: Tensor,
        alpha: float,
    ) -> tuple[Tensor, Tensor]:
        """Soft targets image to text and text to image, (own rows, batch + queue) each.

        ``own`` are the teacher's embeddings of this worker's rows, ``batch`` of the whole batch.
        """
        images, texts = self.candidates(batch)
        hard = itc_targets(same_pairs(own_keys, torch.cat([keys, self.keys])))
        temperature = temperature.detach()
        towards_texts = F.softmax(own[0] @ texts.T / temperature, 1)
        towards_images = F.softmax(own[1] @ images.T / temperature, 1)
        return alpha * towards_texts + (1 - alpha) * hard, alpha * towards_images + (1 - alpha) * hard

    def enqueue(self, batch: tuple[Tensor, Tensor], keys: Tensor) -> None:
        """Put a batch in front; the oldest fall out."""
        self.images = torch.cat([batch[0], self.images])[: self.size]
        self.texts = torch.cat([batch[1], self.texts])[: self.size]
        self.keys = torch.cat([keys, self.keys])[: self.size]
