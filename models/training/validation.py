"""Held-out human pairs, looked at while a training runs. They teach nothing; the best state is known by them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from capfilt.models.images.prepare import normalise
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.statistics.roc import roc_auc
from capfilt.models.text.normalise import normalise_caption
from capfilt.models.training.objectives import lm_loss
from capfilt.models.training.pairs import Pairs

MOST = 256  # images that are looked at
SAMPLED = 64  # of them get a caption
AT_ONCE = 32


@dataclass(frozen=True)
class Validation:
    """``pixels`` (n, 3, size, size), one text of each image, and for each the row of an image whose text differs."""

    pixels: Tensor
    texts: tuple[str, ...]
    other: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> "Validation | None":
        """Up to ``MOST`` images; ``None`` when there are not two with different texts."""
        images: list[NDArray[np.uint8]] = []
        texts: list[str] = []
        for number in range(len(pairs.counts)):
            shard = pairs.shard(number)
            for row in range(min(pairs.counts[number], MOST - len(texts))):
                images.append(shard.pixels(row))
                texts.append(normalise_caption(shard.texts[row][0]))
        if len(set(texts)) < 2:
            return None
        count = len(texts)
        other = [
            next(at % count for at in range(own + 1, own + count) if texts[at % count] != texts[own])
            for own in range(count)
        ]
        return cls(normalise(torch.from_numpy(np.stack(images))), tuple(texts), torch.tensor(other))

    def filter(self, model: Med, tokenizer: CaptionTokenizer) -> dict[str, float]:
        """ITC's recall at 1 among all images; ITM's loss and accuracy on own and shuffled texts; the AUC of both;
        the share that ITM calls a match."""
        device = model.temp.device
        ids = tokenizer.encode(list(self.texts), model.config.max_tokens).to(device)
        judged = ids.clone()
        judged[:, 0] = model.config.first("filter")
        images, texts, logits = [], [], []
        for start in range(0, len(ids), AT_ONCE):
            states = model.encode_images(self.pixels[start : start + AT_ONCE].to(device))
            rows = torch.arange(start, start + len(states))
            image = model.text_encoder.image_keys_values(states)
            images.append(model.embed_images(states))
            texts.append(model.embed_texts(ids[rows]))
            logits.append([model.match(judged[of], image) for of in (rows, self.other[rows])])
        similarity = (torch.cat(images) @ torch.cat(texts).T).float().cpu()
        own, shuffled = (torch.cat([both[kind] for both in logits]).float().cpu() for kind in (0, 1))
        labels = torch.tensor([1] * len(ids) + [0] * len(ids))
        scores = torch.cat([own, shuffled])
        said = scores.argmax(1)
        same = torch.tensor([[a == b for b in self.texts] for a in self.texts])
        cosines = torch.cat([similarity.diagonal(), similarity[torch.arange(len(ids)), self.other]])
        return {
            "validation_images": float(len(ids)),
            "validation_recall": float(same.gather(1, similarity.argmax(1, keepdim=True)).float().mean()),
            "validation_itc_auc": _auc(labels, cosines),
            "validation_itm": float(F.cross_entropy(scores, labels)),
            "validation_itm_accuracy": float((said == labels).float().mean()),
            "validation_itm_auc": _auc(labels, scores[:, 1] - scores[:, 0]),
            "validation_yes": float(said.float().mean()),
        }

    def captioner(self, model: Med, tokenizer: CaptionTokenizer, prompt: str = "") -> dict[str, float]:
        """LM's loss without label smoothing."""
        device = model.temp.device
        led = [f"{prompt} {text}" if prompt else text for text in self.texts]
        ids = tokenizer.encode(led, model.config.max_tokens).to(device)
        prompt_tokens = len(tokenizer.pieces(prompt)) if prompt else 0
        losses = []
        for start in range(0, len(ids), AT_ONCE):
            own = ids[start : start + AT_ONCE]
            states = model.encode_images(self.pixels[start : start + AT_ONCE].to(device))
            image = model.text_decoder.bert.image_keys_values(states)
            losses.append(float(lm_loss(model, own, image, prompt_tokens, 0.0)) * len(own))
        return {"validation_images": float(len(ids)), "validation_lm": sum(losses) / len(ids)}

    def repetition(self, model: Med, tokenizer: CaptionTokenizer, prompt: str) -> dict[str, float]:
        """The largest share of images that get one and the same greedy caption; and that of the human captions."""
        device = model.temp.device
        pixels = self.pixels[:SAMPLED].to(device)
        image = model.text_decoder.bert.image_keys_values(model.encode_images(pixels))
        start = tokenizer.encode([prompt], model.config.max_tokens)[:, :-1].to(device).expand(len(pixels), -1)
        ids = start.clone()
        ids[:, 0] = model.config.dec
        ended = torch.zeros(len(ids), dtype=torch.bool, device=device)
        logits, past = model.text_decoder(ids, image)
        for _ in range(model.config.max_tokens - ids.shape[1]):
            token = logits[:, -1].argmax(1).masked_fill(ended, model.config.pad)
            ended |= token == model.config.sep
            ids = torch.cat([ids, token[:, None]], 1)
            if ended.all():
                break
            logits, past = model.text_decoder(token[:, None], image, past)
        captions = [tokenizer.decode(row) for row in ids.tolist()]
        return {
            "validation_same": _largest(captions),
            "validation_same_human": _largest(self.texts[:SAMPLED]),
        }


def _auc(labels: Tensor, scores: Tensor) -> float:
    return roc_auc(labels.numpy(), scores.nan_to_num().numpy())


def _largest(texts: Sequence[str]) -> float:
    return Counter(texts).most_common(1)[0][1] / len(texts)
