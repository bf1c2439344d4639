"""A MED's encoders: a :class:`~capfilt.models.protocols.Matcher` and :class:`~capfilt.models.protocols.Embedder`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.models.checkpoint import CLIP_MEAN, CLIP_STD
from capfilt.models.engine.linear import Arithmetic
from capfilt.models.engine.text_stack import PackedTextStack
from capfilt.models.engine.vision import PackedVisionEncoder
from capfilt.models.images.prepare import RGB, prepare
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.protocols import FLOAT32, Images, Inference, Match
from capfilt.models.text.normalise import is_cut

# Text tokens that are read at once.
_TOKENS = 2048


class EngineMatcher:
    """``batch`` images go together; each is encoded once for all its texts."""

    def __init__(
        self,
        model: Med,
        tokenizer: CaptionTokenizer,
        inference: Inference = FLOAT32,
        device: str = "cpu",
        batch: int = 16,
        pixels: tuple[RGB, RGB] = (CLIP_MEAN, CLIP_STD),
    ) -> None:
        model.require("filter")
        arithmetic = Arithmetic(inference.precision, device)
        self.config, self.tokenizer, self.batch, self.pixels = model.config, tokenizer, batch, pixels
        token = inference.itm_token or model.config.itm_token
        self.first = replace(model.config, itm_token=token).first("filter")
        self.vision = PackedVisionEncoder(model, arithmetic)
        self.stack = PackedTextStack(model.text_encoder, model.config, arithmetic)
        self.temperature = float(model.temperature().detach())
        # the three last products are exact whatever the precision: they are small, and thresholds decide by them
        self.image_projection, self.text_projection, self.itm_head = (
            _Head(module, device) for module in (model.vision_proj, model.text_proj, model.itm_head)
        )

    @torch.inference_mode()
    def match(self, images: Images, texts: Sequence[Sequence[str]]) -> list[list[Match]]:
        """ITM probability and ITC cosine of every text of every image; texts are cut at ``max_tokens``."""
        matches: list[list[Match]] = []
        for start in range(0, len(images), self.batch):
            own = texts[start : start + self.batch]
            shown = [
                image for image, some in zip(images[start : start + self.batch], own, strict=True) if some
            ]
            if not shown:
                matches += [[] for _ in own]
                continue
            scored = iter(self._match(self.states(shown), [some for some in own if some]))
            matches += [[next(scored) for _ in some] for some in own]
        return matches

    def _match(self, states: Tensor, texts: Sequence[Sequence[str]]) -> Iterator[Match]:
        """Of images with states (n, positions, width), each with a text or more."""
        owners = [image for image, some in enumerate(texts) for _ in some]
        ids = self.ids([text for some in texts for text in some])
        seen, read = F.normalize(self.image_projection(states[:, 0]), dim=-1), self._embed(ids)
        itc = (seen[owners] * read).sum(1).clamp(-1.0, 1.0)
        itm = self.judge(states, ids, owners)
        return (Match(*pair) for pair in zip(itm.tolist(), itc.tolist(), strict=True))

    def judge(self, states: Tensor, ids: Sequence[Sequence[int]], owners: Sequence[int]) -> Tensor:
        """ITM probabilities (texts,), float64, of texts whose ``ids`` start with [CLS]; ``owners``, ascending,
        name the row of image ``states`` (n, positions, width) that each belongs to.

        Images with few tokens and those with many are read apart: each its own way, whatever is beside them.
        """
        tokens = [0] * len(states)
        for owner, text in zip(owners, ids, strict=True):
            tokens[owner] += len(text)
        first_states = states.new_empty(len(ids), self.stack.width)
        for few in (True, False):
            numbers = [
                number for number, owner in enumerate(owners) if few is self.stack.are_few(tokens[owner])
            ]
            for part in _chunks([ids[number] for number in numbers]):
                own = numbers[part]
                shown = sorted({owners[number] for number in own})
                of = [shown.index(owners[number]) for number in own]
                judged = [[self.first, *ids[number][1:]] for number in own]
                first_states[own] = self.stack.read(judged, states[shown], of, few)
        # float64: in float32 the probability of a good match soon is exactly 1
        return self.itm_head(first_states).double().softmax(1)[:, 1]

    @torch.inference_mode()
    def embed_images(self, images: Images) -> NDArray[np.float32]:
        states = [
            self.states(images[start : start + self.batch]) for start in range(0, len(images), self.batch)
        ]
        return self._array([F.normalize(self.image_projection(part[:, 0]), dim=-1) for part in states])

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._array([self._embed(self.ids(texts))] if texts else [])

    def count_truncated(self, texts: Sequence[str]) -> int:
        whole = self.tokenizer.rows(texts, sys.maxsize)
        return sum(
            len(row) > self.config.max_tokens or is_cut(text) for row, text in zip(whole, texts, strict=True)
        )

    def states(self, images: Images) -> Tensor:
        return self.vision.see(prepare(images, self.config.image_size, *self.pixels))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer.rows(texts, self.config.max_tokens)

    def _embed(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """ITC embeddings (texts, projection), float32, L2-normalised, of texts that start with [CLS]."""
        parts = [self.stack.read(ids[part]) for part in _chunks(ids)]
        return F.normalize(self.text_projection(torch.cat(parts)), dim=-1)

    def _array(self, parts: list[Tensor]) -> NDArray[np.float32]:
        if not parts:
            return np.empty((0, self.config.projection), dtype=np.float32)
        return torch.cat(parts).cpu().numpy()


class _Head:
    """In float64 and rounded: in float32 the last bits would depend on the number of rows."""

    def __init__(self, module: nn.Linear, device: str) -> None:
        self.weight, self.bias = (each.detach().to(device).double() for each in (module.weight, module.bias))

    def __call__(self, states: Tensor) -> Tensor:
        return F.linear(states.double(), self.weight, self.bias).float()


def _chunks(texts: Sequence[Sequence[int]]) -> Iterator[slice]:
    """Texts of at most ``_TOKENS`` tokens together, one text at least."""
    start = tokens = 0
    for number, text in enumerate(texts):
        if number > start and tokens + len(text) > _TOKENS:
            yield slice(start, number)
            start, tokens = number, 0
        tokens += len(text)
    if texts:
        yield slice(start, len(texts))
