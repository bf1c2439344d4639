"""The four trainings of CapFilt: warm-up, pretraining, finetuning a filter, finetuning a captioner.

Each takes a model and changes it in place; for two finetunings of one pretrained model give each its own copy
(``copy.deepcopy``), as CapFilt does (BLIP, section 3.3). Saving is the caller's.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from data_contracts.errors import TrainingError
from models.images import normalise
from models.med.model import Med
from models.med.tokenizer import CaptionTokenizer
from models.training.augment import random_resized_crop
from models.training.data import Batches, PairSet, frequent_words, shuffled, word_targets
from models.training.grounding import Grounding, GroundingSettings
from models.training.loop import Execution, LoopSettings, train
from models.training.objectives import lm_loss


@dataclass(frozen=True)
class WarmupSettings(LoopSettings):
    """The image encoder predicts the ``words`` most frequent content words of the human captions."""

    steps: int = 400
    lr: float = 1e-3
    words: int = 400


@dataclass(frozen=True)
class PretrainSettings(GroundingSettings):
    """ITC + ITM + LM, weighed by ``lm``, on human and web pairs."""

    steps: int = 700
    lr: float = 1e-3
    warmup: int = 100
    human_share: float = 0.3
    lm: float = 1.0

    @property
    def weights(self) -> dict[str, float]:
        return {**super().weights, "lm": self.lm}


@dataclass(frozen=True)
class FilterSettings(GroundingSettings):
    """ITC + ITM on human pairs, and on web pairs if given (rehearsal on trusted ones; beyond BLIP)."""

    steps: int = 250
    lr: float = 5e-4
    itm_from: float = 0.0


@dataclass(frozen=True)
class CaptionerSettings(LoopSettings):
    """LM on human pairs, and on web pairs if given (those a filter kept; beyond BLIP); prompt masked.

    ``smoothing`` of the labels is 0.1 in BLIP. It teaches to leave that much mass on wrong words, which a nucleus
    of 0.9 only just cuts off: sampling from a small model goes better with none.
    """

    steps: int = 250
    lr: float = 5e-4
    human_share: float = 0.5
    prompt: str = "a picture of"
    smoothing: float = 0.1


def warm_up(
    model: Med,
    human: PairSet,
    settings: WarmupSettings,
    execution: Execution,
) -> list[str]:
    """Words warm-up: cross-entropy between predicted words and their counts in each image's captions.

    BLIP starts from an ImageNet ViT; from scratch, noisy pairs alone do not get an image encoder started.
    Returns the words. Raises :class:`TrainingError` if the captions have fewer than two content words.
    """
    words = frequent_words(human, settings.words)
    if len(words) < 2:
        raise TrainingError(
            what="the human captions have no words to warm up with",
            evidence=f"content words: {words}",
            remedy="leave the warm-up out, or warm up on labelled images",
        )
    _classify(model, human.images, word_targets(human, words), settings, execution)
    return words


def warm_up_on_labels(
    model: Med,
    images: NDArray[np.uint8],
    labels: list[str],
    settings: WarmupSettings,
    execution: Execution,
) -> list[str]:
    """The same on other pictures with one label each: image classification. Returns the classes."""
    classes = sorted(set(labels))
    targets = F.one_hot(torch.tensor([classes.index(label) for label in labels]), len(classes)).float()
    _classify(model, images, targets, settings, execution)
    return classes


def pretrain(
    model: Med,
    tokenizer: CaptionTokenizer,
    human: PairSet,
    web: PairSet | None,
    settings: PretrainSettings,
    execution: Execution,
) -> None:
    """Pretraining on human and web pairs (BLIP, section 3.2): the three losses, unweighted."""
    model.require("filter", "captioner")
    batches = _batches(model, tokenizer, human, web, settings, settings.human_share)
    learner = Grounding(model, settings, batches, execution.device)
    train(learner, learner.losses, settings, execution)


def finetune_filter(
    model: Med,
    tokenizer: CaptionTokenizer,
    human: PairSet,
    web: PairSet | None,
    settings: FilterSettings,
    execution: Execution,
) -> None:
    """Finetune ITC and ITM (BLIP, section 3.3: the filter)."""
    model.require("filter")
    batches = _batches(model, tokenizer, human, web, settings, settings.human_share)
    learner = Grounding(model, settings, batches, execution.device)
    train(learner, learner.losses, settings, execution)


def finetune_captioner(
    model: Med,
    tokenizer: CaptionTokenizer,
    human: PairSet,
    web: PairSet | None,
    settings: CaptionerSettings,
    execution: Execution,
) -> None:
    """Finetune LM (BLIP, section 3.3: the captioner); the prompt leads every text and is not learnt."""
    model.require("captioner")
    batches = _batches(model, tokenizer, human, web, settings, settings.human_share, settings.prompt)
    prompt_tokens = len(tokenizer.pieces(settings.prompt))

    def losses(step: int) -> dict[str, Tensor]:
        batch = batches(step).to(execution.device)
        image = model.text_decoder.bert.image_keys_values(model.encode_images(batch.pixels))
        lm = lm_loss(model, batch.ids, image, prompt_tokens, settings.smoothing)
        return {"loss": lm, "lm": lm}

    train(model, losses, settings, execution)


def _batches(
    model: Med,
    tokenizer: CaptionTokenizer,
    human: PairSet,
    web: PairSet | None,
    settings: LoopSettings,
    human_share: float,
    prompt: str = "",
) -> Batches:
    return Batches(
        human,
        web,
        tokenizer,
        size=settings.batch,
        max_tokens=model.config.max_tokens,
        human_share=human_share,
        crop=settings.crop,
        flip=settings.flip,
        seed=settings.seed,
        prompt=prompt,
    )


class _Classifier(nn.Module):
    """The image encoder with a temporary linear head on [CLS]."""

    def __init__(self, model: Med, classes: int) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.head = nn.Linear(model.config.vision_width, classes)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.vision_model(pixels)[:, 0])
        return logits


def _classify(
    model: Med, images: NDArray[np.uint8], targets: Tensor, settings: LoopSettings, execution: Execution
) -> None:
    """Soft cross-entropy of [CLS] against ``targets`` (images, classes); all-zero rows are left out."""
    usable = targets.sum(1).nonzero()[:, 0].numpy()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        learner = _Classifier(model, targets.shape[1]).to(execution.device)

    def losses(step: int) -> dict[str, Tensor]:
        rows = shuffled(len(usable), settings.seed, step, settings.batch)
        generator = torch.Generator().manual_seed(settings.seed + 7919 * step)
        pixels = normalise(torch.from_numpy(images[usable[rows]]))
        pixels = random_resized_crop(pixels, settings.crop, settings.flip, generator).to(execution.device)
        wanted = targets[usable[rows]].to(execution.device)
        logits = learner(pixels)
        loss = F.cross_entropy(logits, wanted)
        hit = wanted.gather(1, logits.argmax(1, keepdim=True)).gt(0).float().mean()
        return {"loss": loss, "accuracy": hit}

    train(learner, losses, settings, execution)
