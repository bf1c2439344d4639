"""BLIP's three objectives as pure functions (arXiv 2201.12086, section 3.2, and its training code).

Keys (rows, 2), int64, say which pairs of a batch are the same: one column for the image, one for the text. Pairs
equal in any column are positives of one another for ITC and never negatives for ITM.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from capfilt.models.med.attention import KeyValue
from capfilt.models.med.model import Med
from capfilt.models.training.distributed import ALONE, WorkerGroup

IGNORED = -100


def full(values: Tensor) -> Tensor:
    """Out of bfloat16, in which a softmax over many says little."""
    return values.float() if values.dtype == torch.bfloat16 else values


def same_pairs(left: Tensor, right: Tensor) -> Tensor:
    """(a, b) bool: whether pair i of ``left`` (a, 2) and pair j of ``right`` (b, 2) share a key."""
    return (left[:, None] == right[None]).any(-1)


def itc_targets(same: Tensor) -> Tensor:
    """(a, b) float32 rows that sum to 1: all positives alike, as in BLIP's retrieval finetuning."""
    positives = same.float()
    return positives / positives.sum(1, keepdim=True)


def itc_loss(
    image_to_text: Tensor, text_to_image: Tensor, image_targets: Tensor, text_targets: Tensor
) -> Tensor:
    """Mean of the cross-entropies both ways; similarities (rows, candidates) are already over temperature."""
    towards_text = -(F.log_softmax(image_to_text, 1) * image_targets).sum(1).mean()
    towards_image = -(F.log_softmax(text_to_image, 1) * text_targets).sum(1).mean()
    return (towards_text + towards_image) / 2


def negative_weights(similarity: Tensor, same: Tensor, hardness: float) -> Tensor:
    """Weights (rows, candidates) to draw one negative per row; rows without any candidate are all zero.

    BLIP draws by ``softmax(similarity)``, which teaches a still unaligned model to answer "never". So the
    draw starts uniform (``hardness`` 0) and ends as BLIP's (1). Every candidate keeps a little weight: a
    softmax can underflow to zero on all that are allowed, and ``multinomial`` fails on such rows.
    """
    allowed = (~same).float()
    hard = F.softmax(similarity, 1) * allowed
    hard = hard / hard.sum(1, keepdim=True).clamp_min(1e-12)
    even = allowed / allowed.sum(1, keepdim=True).clamp_min(1.0)
    return (hardness * hard + (1 - hardness) * even + 1e-4) * allowed


class Negatives(NamedTuple):
    """For each pair an image and a text that do not belong to it (int64), and whether there is one (bool)."""

    images: Tensor
    texts: Tensor
    found: Tensor

    def to(self, device: str) -> "Negatives":
        return Negatives(*(part.to(device) for part in self))


def draw_negatives(
    similarity: Tensor, same: Tensor, hardness: float, generator: torch.Generator
) -> Negatives:
    """One negative image per text and one negative text per image; ``similarity`` is (images, texts)."""
    similarity = similarity.detach().nan_to_num()  # the loop stops at a NaN and says why; do not crash before
    found = ~same.all(1)
    safe = torch.where(found, 0.0, 1.0)[:, None]  # any weight will do where the draw is thrown away
    images = torch.multinomial(
        negative_weights(similarity.T, same.T, hardness) + safe, 1, generator=generator
    )
    texts = torch.multinomial(negative_weights(similarity, same, hardness) + safe, 1, generator=generator)
    return Negatives(images[:, 0], texts[:, 0], found)


class Itm(NamedTuple):
    """The loss, and the probability of a match that each match and each mismatch got, in their order."""

    loss: Tensor
    matches: Tensor
    mismatches: Tensor


def itm_loss(
    model: Med,
    ids: Tensor,
    image: list[KeyValue],
    shown: Tensor,
    labels: Tensor,
    world: WorkerGroup = ALONE,
) -> Itm:
    """Cross-entropy of texts that do or do not belong to the image that they are shown with.

    ``ids`` (pairs, length), whose first token is replaced by [ENC]; ``shown`` (pairs,) int64, the row of ``image``
    of each; ``labels`` (pairs,) int64, 1 = match, the matches first. BLIP: each pair of a batch, its text with
    a negative image, a negative text with its image.
    """
    ids = ids.clone()
    ids[:, 0] = model.config.first("filter")
    logits = full(model.match(ids, [layer.rows(shown) for layer in image]))
    loss = world.mean(F.cross_entropy(logits, labels, reduction="sum"), len(labels))
    probability = logits.detach().softmax(1)[:, 1]
    return Itm(loss, probability[labels == 1], probability[labels == 0])


def lm_loss(
    model: Med,
    ids: Tensor,
    image: list[KeyValue],
    prompt_tokens: int = 0,
    smoothing: float = 0.1,
    world: WorkerGroup = ALONE,
) -> Tensor:
    """Label-smoothed cross-entropy of the next token; pads and the first ``prompt_tokens`` targets do not
    count.

    ``ids`` (rows, length) of the texts (with the prompt, if any), whose first token is replaced by [DEC]. The
    vocabulary matmul runs only where there is a target.
    """
    inputs, labels = ids[:, :-1].clone(), ids[:, 1:].masked_fill(ids[:, 1:] == model.config.pad, IGNORED)
    inputs[:, 0] = model.config.dec
    labels[:, :prompt_tokens] = IGNORED
    states, _ = model.text_decoder.bert(inputs, image=image, causal=True)
    counted = labels != IGNORED
    logits = full(model.text_decoder.cls.predictions(states[counted]))
    total = F.cross_entropy(logits, labels[counted], label_smoothing=smoothing, reduction="sum")
    return world.mean(total, int(counted.sum()))
