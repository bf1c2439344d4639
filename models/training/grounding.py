"""A step of ITC + ITM (+ LM): what pretraining and the filter have in common."""

import torch
from torch import Tensor
from torch.nn import functional as F

from capfilt.models.med.attention import KeyValue
from capfilt.models.med.model import Med
from capfilt.models.training.data import Batch, Batches
from capfilt.models.training.distributed import ALONE, WorkerGroup
from capfilt.models.training.loop import Learner
from capfilt.models.training.momentum import MomentumTeacher
from capfilt.models.training.objectives import (
    draw_negatives,
    full,
    itc_loss,
    itc_targets,
    itm_loss,
    lm_loss,
    same_pairs,
)
from capfilt.models.training.settings import GroundingSettings


class Grounding(Learner):
    """The model with what must survive a restart beside it: the running recall, the momentum teacher.

    With several workers ITC and the hard negatives see the whole batch: embeddings and image states are gathered
    with their gradients, as in BLIP's retrieval finetuning.
    """

    def __init__(
        self,
        model: Med,
        settings: GroundingSettings,
        batches: Batches,
        device: str,
        world: WorkerGroup = ALONE,
        judged_by: str = "",
    ) -> None:
        super().__init__()
        self.model, self.settings, self.batches = model.to(device), settings, batches
        self.device, self.weights, self.world, self.judged_by = device, settings.weights, world, judged_by
        self.recall: Tensor
        self.register_buffer("recall", torch.zeros((), device=device))
        self.skill: Tensor
        self.register_buffer("skill", torch.zeros((), device=device))
        self.teacher = MomentumTeacher(model, settings.queue, settings.momentum) if settings.queue else None

    def forward(self, number: int) -> dict[str, Tensor]:
        """``loss`` and its parts; ``itm`` and ``itm_accuracy`` once ITM has started."""
        batch = self.batches(number).to(self.device)
        step = number // self.settings.accumulate
        model, settings, world = self.model, self.settings, self.world
        states = model.encode_images(batch.pixels)
        images, texts = full(model.embed_images(states)), full(model.embed_texts(batch.ids))
        all_images, all_texts, keys = world.gather(images), world.gather(texts), world.gather(batch.keys)
        temperature = model.temperature()
        figures: dict[str, Tensor] = {}
        if settings.itc:
            figures["itc"] = self._itc(batch, (images, texts), (all_images, all_texts), keys, step)
        similarity = (all_images @ all_texts.T / temperature).detach()
        same = same_pairs(keys, keys)
        self._measure(similarity, same, batch.human)
        started = self.recall >= settings.itm_from or step >= settings.itm_latest * settings.steps
        judging, captioning = bool(started and settings.itm), self.weights.get("lm", 0.0) > 0
        if judging or (captioning and model.config.shared):
            image = model.text_encoder.image_keys_values(states)
        if judging:
            figures["itm"], accuracy = self._itm(batch, states, image, similarity, same, number)
        if captioning:
            seen = image if model.config.shared else model.text_decoder.bert.image_keys_values(states)
            figures["lm"] = lm_loss(model, batch.ids, seen, smoothing=settings.smoothing, world=world)
        weighted = [self.weights[name] * value for name, value in figures.items()]
        figures["loss"] = torch.stack(weighted).sum() if weighted else 0.0 * images.sum()
        if "itm" in figures:
            figures["itm_accuracy"] = accuracy
        return figures | {"recall": self.recall, "skill": self.skill, "temperature": temperature.detach()}

    def _itc(
        self,
        batch: Batch,
        own: tuple[Tensor, Tensor],
        every: tuple[Tensor, Tensor],
        keys: Tensor,
        step: int,
    ) -> Tensor:
        """The mean over this worker's rows, which are compared with those of all."""
        temperature = self.model.temperature()
        if self.teacher is None:
            targets = itc_targets(same_pairs(batch.keys, keys))
            return itc_loss(
                own[0] @ every[1].T / temperature, own[1] @ every[0].T / temperature, targets, targets
            )
        settings, world = self.settings, self.world
        self.teacher.update(self.model)
        slow = self.teacher(batch.pixels, batch.ids)
        gathered = (world.gather(slow[0]), world.gather(slow[1]))
        alpha = settings.alpha * min(1.0, step / max(1.0, settings.alpha_ramp * settings.steps))
        image_targets, text_targets = self.teacher.targets(
            slow, gathered, batch.keys, keys, temperature, alpha
        )
        all_images, all_texts = self.teacher.candidates(gathered)
        loss = itc_loss(
            own[0] @ all_texts.T / temperature,
            own[1] @ all_images.T / temperature,
            image_targets,
            text_targets,
        )
        self.teacher.enqueue(gathered, keys)
        return loss

    def _itm(
        self,
        batch: Batch,
        states: Tensor,
        image: list[KeyValue],
        similarity: Tensor,
        same: Tensor,
        number: int,
    ) -> tuple[Tensor, Tensor]:
        """The loss and the accuracy of this worker's pairs, each text with a hard negative image, each image with a
        hard negative text, and with its own text made false in each way that the rules find.

        Edited texts come in as negatives harden: they hide what tells one text from another's until that is learnt.
        """
        settings, world = self.settings, self.world
        hardness = min(1.0, float(self.skill) / settings.hard_from) if settings.hard_from > 0 else 1.0
        generator = torch.Generator().manual_seed(settings.seed + 104_729 * number)
        drawn = draw_negatives(similarity.cpu(), same.cpu(), hardness, generator).to(self.device)
        rows = len(batch.ids)
        own = torch.arange(rows, device=self.device)
        mine = own + world.rank * rows
        found, wrong = drawn.found[mine], drawn.images[mine]
        if world.size > 1:  # the negative images may be another worker's
            others = self.model.text_encoder.image_keys_values(world.gather(states).index_select(0, wrong))
            image = [mine_.followed_by_rows(other) for mine_, other in zip(image, others, strict=True)]
            wrong = own + rows
        come = torch.rand(len(batch.changed), len(same), generator=generator) < hardness
        kind, changed = torch.nonzero(batch.changed & come.to(self.device)[:, mine], as_tuple=True)
        ids, edited = self._level(batch.ids, batch.edited[kind, changed])
        texts = [ids, ids[found], world.gather(ids)[drawn.texts[mine][found]], edited]
        shown = torch.cat([own, wrong[found], own[found], changed])
        labels = torch.zeros(len(shown), dtype=torch.int64, device=self.device)
        labels[:rows] = 1
        itm = itm_loss(self.model, torch.cat(texts), image, shown, labels, world)
        plain = itm.mismatches[: 2 * int(found.sum())]  # without edits
        mismatch = world.average(world.mean(plain.sum(), max(1, len(plain))))
        skill = (world.gather(itm.matches)[: batch.human].mean() - mismatch).clamp_min(0.0)
        self.skill.lerp_(world.agree(skill), 0.1)
        right = (itm.matches > 0.5).sum() + (itm.mismatches <= 0.5).sum()
        return itm.loss, world.mean(right.float(), len(labels))

    def _level(self, *ids: Tensor) -> list[Tensor]:
        """Token ids, all as wide as the widest."""
        widest = max(part.shape[1] for part in ids)
        return [F.pad(part, (0, widest - part.shape[1]), value=self.model.config.pad) for part in ids]

    @torch.no_grad()
    def _measure(self, similarity: Tensor, same: Tensor, human: int) -> None:
        """Running mean, over about ten steps, of recall at 1, image to text, of the batch's human pairs."""
        best = similarity[:human].argmax(1, keepdim=True)
        hits = same[:human].gather(1, best).float().mean()
        self.recall.lerp_(self.world.agree(hits), 0.1)
