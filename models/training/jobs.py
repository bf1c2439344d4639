"""The four trainings of CapFilt: warm-up, pretraining, finetuning a filter, finetuning a captioner.

Each takes a model and changes it in place; for two finetunings of one pretrained model give each its own copy
(``copy.deepcopy``), as CapFilt does (BLIP, section 3.3). Saving is the caller's.
``held_out`` are human pairs to look at on the way, never to learn from.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.text.edits import Edits
from capfilt.models.text.normalise import content_words
from capfilt.models.training.data import Batches, PairSource
from capfilt.models.training.grounding import Grounding
from capfilt.models.training.loop import Execution, Learner, train
from capfilt.models.training.lora import trainable
from capfilt.models.training.objectives import lm_loss
from capfilt.models.training.pairs import Pairs, PairSet, demand_variety, frequent_words
from capfilt.models.training.settings import (
    CaptionerSettings,
    FilterSettings,
    LoopSettings,
    PretrainSettings,
    WarmupSettings,
)
from capfilt.models.training.validation import Validation


def warm_up(
    model: Med, tokenizer: CaptionTokenizer, human: Pairs, settings: WarmupSettings, execution: Execution
) -> list[str]:
    """Words warm-up: cross-entropy between predicted words and their counts in each image's captions.

    BLIP starts from an ImageNet ViT; from scratch, noisy pairs alone do not get an image encoder started.
    Returns the words. Raises :class:`TrainingError` if the captions have fewer than two content words.
    """
    words = frequent_words(human.texts(), settings.words)
    if len(words) < 2:
        raise TrainingError(
            what="the human captions have no words to warm up with",
            evidence=f"content words: {words}",
            remedy="leave the warm-up out, or warm up on labelled images",
        )
    _classify(model, tokenizer, human, words, settings, execution)
    return words


def warm_up_on_labels(
    model: Med,
    tokenizer: CaptionTokenizer,
    images: NDArray[np.uint8],
    labels: list[str],
    settings: WarmupSettings,
    execution: Execution,
) -> list[str]:
    """The same on other images (n, size, size, 3) with one label each; returns the classes."""
    classes = sorted(set(labels))
    names = {
        label: f"class{''.join(chr(97 + int(digit)) for digit in str(at))}"
        for at, label in enumerate(classes)
    }
    pairs = PairSet(images, [[names[label]] for label in labels], [str(at) for at in range(len(labels))])
    _classify(model, tokenizer, pairs, list(names.values()), settings, execution)
    return classes


def pretrain(
    model: Med,
    tokenizer: CaptionTokenizer,
    human: Pairs,
    others: Sequence[PairSource],
    settings: PretrainSettings,
    execution: Execution,
    held_out: Pairs | None = None,
) -> None:
    """Pretraining on human and other pairs (BLIP, section 3.2): the three losses."""
    model.require("filter", "captioner")
    validation = held_out and Validation.of(held_out)
    demand_variety(human)
    sources = _sources(human, others, settings.human_share)
    with trainable(model, settings):
        batches = _batches(model, tokenizer, sources, settings, execution)
        learner = Grounding(model, settings, batches, execution.device, execution.world)

        def look() -> dict[str, float]:
            assert validation
            return validation.filter(model, tokenizer) | validation.captioner(model, tokenizer)

        train(learner, settings, execution, look if validation else None)


def finetune_filter(
    model: Med,
    tokenizer: CaptionTokenizer,
    human: Pairs,
    others: Sequence[PairSource],
    settings: FilterSettings,
    execution: Execution,
    held_out: Pairs | None = None,
) -> None:
    """Finetune ITC and ITM (BLIP, section 3.3: the filter)."""
    model.require("filter")
    validation = held_out and Validation.of(held_out)
    demand_variety(human)
    sources = _sources(human, others, settings.human_share)
    edits = Edits.of(text for own in human.texts() for text in own) if settings.edits else None
    with trainable(model, settings):
        batches = _batches(model, tokenizer, sources, settings, execution, edits=edits)
        judged_by = "validation_itm" if settings.itm else ""
        learner = Grounding(model, settings, batches, execution.device, execution.world, judged_by)
        train(
            learner,
            settings,
            execution,
            (lambda: validation.filter(model, tokenizer)) if validation else None,
        )


class _Captioning(Learner):
    """LM with a prompt that leads every text and is not learnt."""

    judged_by = "validation_lm"

    def __init__(
        self,
        model: Med,
        tokenizer: CaptionTokenizer,
        batches: Batches,
        settings: CaptionerSettings,
        execution: Execution,
    ) -> None:
        super().__init__()
        self.model, self.batches, self.settings, self.execution = model, batches, settings, execution
        self.prompt_tokens = len(tokenizer.pieces(settings.prompt))

    def forward(self, number: int) -> dict[str, Tensor]:
        batch = self.batches(number).to(self.execution.device)
        image = self.model.text_decoder.bert.image_keys_values(self.model.encode_images(batch.pixels))
        smoothing, world = self.settings.smoothing, self.execution.world
        lm = lm_loss(self.model, batch.ids, image, self.prompt_tokens, smoothing, world)
        return {"loss": lm, "lm": lm.detach()}


def finetune_captioner(
    model: Med,
    tokenizer: CaptionTokenizer,
    human: Pairs,
    others: Sequence[PairSource],
    settings: CaptionerSettings,
    execution: Execution,
    held_out: Pairs | None = None,
) -> None:
    """Finetune LM (BLIP, section 3.3: the captioner); the prompt leads every text and is not learnt."""
    model.require("captioner")
    validation = held_out and Validation.of(held_out)
    demand_variety(human)
    sources = _sources(human, others, settings.human_share)
    with trainable(model, settings):
        batches = _batches(model, tokenizer, sources, settings, execution, prompt=settings.prompt)
        learner = _Captioning(model, tokenizer, batches, settings, execution)

        def look() -> dict[str, float]:
            assert validation
            prompt = settings.prompt
            return validation.captioner(model, tokenizer, prompt) | validation.repetition(
                model, tokenizer, prompt
            )

        train(learner, settings, execution, look if validation else None)


def _sources(human: Pairs, others: Sequence[PairSource], human_share: float) -> list[PairSource]:
    """The human pairs first, with their share; the others share the rest by their weights."""
    rest = [source for source in others if sum(source.pairs.counts) and source.weight > 0]
    if not rest or human_share >= 1:
        return [PairSource(human, 1.0)]
    whole = sum(source.weight for source in rest)
    scaled = [source._replace(weight=(1 - human_share) * source.weight / whole) for source in rest]
    return [PairSource(human, human_share), *scaled] if human_share > 0 else scaled


def _batches(
    model: Med,
    tokenizer: CaptionTokenizer,
    sources: Sequence[PairSource],
    settings: LoopSettings,
    execution: Execution,
    prompt: str = "",
    edits: Edits | None = None,
) -> Batches:
    return Batches(
        sources,
        tokenizer,
        settings,
        max_tokens=model.config.max_tokens,
        prompt=prompt,
        edits=edits,
        world=execution.world,
    )


class _Classifier(Learner):
    """The image encoder with a temporary linear head on [CLS] that predicts words of the texts.

    Soft cross-entropy against each listed word's share among those of the text; texts with none do not count.
    """

    def __init__(self, model: Med, words: Sequence[str], batches: Batches, execution: Execution) -> None:
        super().__init__()
        self.vision_model, self.batches, self.execution = model.vision_model, batches, execution
        self.column = {word: number for number, word in enumerate(words)}
        self.head = nn.Linear(model.config.vision_width, len(words))
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, number: int) -> dict[str, Tensor]:
        batch, world = self.batches(number).to(self.execution.device), self.execution.world
        wanted = self._wanted(batch.texts).to(self.execution.device)
        usable = wanted.sum(1) > 0
        logits = self.head(self.vision_model(batch.pixels)[:, 0]).float()
        total = F.cross_entropy(logits[usable], wanted[usable], reduction="sum")
        hits = wanted.gather(1, logits.argmax(1, keepdim=True)).gt(0).float().sum()
        count = int(usable.sum())
        return {"loss": world.mean(total, max(1, count)), "accuracy": world.mean(hits, max(1, count))}

    def _wanted(self, texts: Sequence[str]) -> Tensor:
        """(texts, words) float32, rows that sum to 1, or to 0."""
        counts = torch.zeros(len(texts), len(self.column))
        for row, text in enumerate(texts):
            for word in content_words(text):
                if word in self.column:
                    counts[row, self.column[word]] += 1
        return counts / counts.sum(1, keepdim=True).clamp_min(1.0)


def _classify(
    model: Med,
    tokenizer: CaptionTokenizer,
    pairs: Pairs,
    words: Sequence[str],
    settings: LoopSettings,
    execution: Execution,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        batches = _batches(model, tokenizer, [PairSource(pairs, 1.0)], settings, execution)
        learner = _Classifier(model, words, batches, execution).to(execution.device)
    train(learner, settings, execution)
