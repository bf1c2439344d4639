"""A step of ITC + ITM (+ LM): what pretraining and the filter have in common."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_contracts.errors import TrainingError
from models.med.model import Med
from models.training.data import Batch, Batches
from models.training.loop import LoopSettings
from models.training.momentum import MomentumTeacher
from models.training.objectives import (
    draw_negatives,
    itc_loss,
    itc_targets,
    itm_loss,
    lm_loss,
    same_pairs,
)


@dataclass(frozen=True)
class GroundingSettings(LoopSettings):
    """When ITM starts and how hard its negatives are follows ITC's running recall at 1 among human pairs.

    ITM starts at recall ``itm_from``, at the latest after ``itm_latest`` of the steps: before, it would only
    learn that two pairs in three are wrong. Its negatives are uniform at recall 0 and as hard as BLIP's from
    ``hard_from`` on. With ``queue`` 0 ITC compares within the batch; above, it uses BLIP's momentum encoders
    (decay ``momentum``), and soft targets weighted ``alpha``, ramped up over the first ``alpha_ramp`` of the
    steps. ``human_share`` is that of a batch, if there are web pairs; ``smoothing`` that of LM's labels.

    ``itc`` and ``itm`` weigh the losses: BLIP's are all 1; one at 0 is switched off and not computed.
    """

    itc: float = 1.0
    itm: float = 1.0

    human_share: float = 0.5
    smoothing: float = 0.1
    itm_from: float = 0.3
    itm_latest: float = 0.5
    hard_from: float = 0.5
    queue: int = 0
    momentum: float = 0.995
    alpha: float = 0.4
    alpha_ramp: float = 0.1

    def __post_init__(self) -> None:
        """Raises :class:`TrainingError` for a negative weight, or if there is nothing to learn."""
        weights = self.weights.values()
        if min(weights) < 0 or sum(weights) == 0:
            raise TrainingError(
                what="the losses cannot be weighed like this",
                evidence=", ".join(f"{name} {weight}" for name, weight in self.weights.items()),
                remedy="give weights of 0 or more, at least one above",
            )

    @property
    def weights(self) -> dict[str, float]:
        """Of each loss that this job has."""
        return {"itc": self.itc, "itm": self.itm}


class Grounding(nn.Module):
    """The model with what must survive a restart beside it: the running recall, the momentum teacher."""

    def __init__(self, model: Med, settings: GroundingSettings, batches: Batches, device: str) -> None:
        super().__init__()
        self.model, self.settings, self.batches = model.to(device), settings, batches
        self.device, self.weights = device, settings.weights
        self.recall: Tensor
        self.register_buffer("recall", torch.zeros((), device=device))
        self.skill: Tensor
        self.register_buffer("skill", torch.zeros((), device=device))
        self.teacher = MomentumTeacher(model, settings.queue, settings.momentum) if settings.queue else None

    def losses(self, step: int) -> dict[str, Tensor]:
        """``loss`` and its parts at this step; ``itm`` and ``itm_accuracy`` once ITM has started."""
        batch = self.batches(step).to(self.device)
        model, settings = self.model, self.settings
        states = model.encode_images(batch.pixels)
        images, texts = model.embed_images(states), model.embed_texts(batch.ids)
        similarity = images @ texts.T / model.temperature()
        same = same_pairs(batch.keys, batch.keys)
        figures: dict[str, Tensor] = {}
        if settings.itc:
            figures["itc"] = self._itc(batch, images, texts, similarity, same, step)
        self._measure(similarity, same, batch.human)
        started = self.recall >= settings.itm_from or step >= settings.itm_latest * settings.steps
        judging, captioning = bool(started and settings.itm), self.weights.get("lm", 0.0) > 0
        if judging or (captioning and model.config.shared):
            image = model.text_encoder.image_keys_values(states)
        if judging:
            hardness = min(1.0, float(self.skill) / settings.hard_from) if settings.hard_from > 0 else 1.0
            generator = torch.Generator().manual_seed(settings.seed + 104_729 * step)
            drawn = draw_negatives(similarity.cpu(), same.cpu(), hardness, generator)
            figures["itm"], accuracy, margins = itm_loss(model, batch.ids, image, drawn.to(self.device))
            self.skill.lerp_(margins[: batch.human].mean().clamp_min(0.0), 0.1)
        if captioning:
            seen = image if model.config.shared else model.text_decoder.bert.image_keys_values(states)
            figures["lm"] = lm_loss(model, batch.ids, seen, smoothing=settings.smoothing)
        weighted = [self.weights[name] * value for name, value in figures.items()]
        figures["loss"] = torch.stack(weighted).sum() if weighted else 0.0 * similarity.sum()
        if judging:
            figures["itm_accuracy"] = accuracy
        return figures | {"recall": self.recall, "skill": self.skill}

    def _itc(
        self, batch: Batch, images: Tensor, texts: Tensor, similarity: Tensor, same: Tensor, step: int
    ) -> Tensor:
        if self.teacher is None:
            targets = itc_targets(same)
            return itc_loss(similarity, similarity.T, targets, targets)
        settings, temperature = self.settings, self.model.temperature()
        self.teacher.update(self.model)
        slow = self.teacher(batch.pixels, batch.ids)
        alpha = settings.alpha * min(1.0, step / max(1.0, settings.alpha_ramp * settings.steps))
        image_targets, text_targets = self.teacher.targets(slow, batch.keys, temperature, alpha)
        all_images, all_texts = self.teacher.candidates(slow)
        loss = itc_loss(
            images @ all_texts.T / temperature,
            texts @ all_images.T / temperature,
            image_targets,
            text_targets,
        )
        self.teacher.enqueue(slow, batch.keys)
        return loss

    @torch.no_grad()
    def _measure(self, similarity: Tensor, same: Tensor, human: int) -> None:
        """Running mean, over about ten steps, of recall at 1, image to text, of the batch's human pairs."""
        best = similarity[:human].argmax(1, keepdim=True)
        hits = same[:human].gather(1, best).float().mean()
        self.recall.lerp_(hits, 0.1)
