"""A MED's decoder as a :class:`~capfilt.models.protocols.Captioner`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from capfilt.data_contracts.errors import UsageError
from capfilt.models.checkpoint import CLIP_MEAN, CLIP_STD
from capfilt.models.engine.beam import search
from capfilt.models.engine.kv_cache import KVCache, Writer
from capfilt.models.engine.linear import Arithmetic
from capfilt.models.engine.sampling import process_logits, sample
from capfilt.models.engine.vision import PackedVisionEncoder
from capfilt.models.images.prepare import RGB, prepare
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.protocols import FLOAT32, Decoding, Images, Inference, Written
from capfilt.models.random_numbers import CaptionRandom


@dataclass
class Row:
    """A caption being written."""

    image: int
    index: int
    stream: CaptionRandom
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0


class EngineCaptioner:
    """``batch`` captions are decoded at once: those that end leave, the next image's take their place.

    A caption is the same, bit for bit on a CPU, whatever else is decoded beside it.
    """

    def __init__(
        self,
        model: Med,
        tokenizer: CaptionTokenizer,
        inference: Inference = FLOAT32,
        device: str = "cpu",
        batch: int = 16,
        pixels: tuple[RGB, RGB] = (CLIP_MEAN, CLIP_STD),
    ) -> None:
        model.require("captioner")
        arithmetic = Arithmetic(inference.precision, device)
        self.config, self.tokenizer, self.batch, self.pixels = model.config, tokenizer, batch, pixels
        self.vision = PackedVisionEncoder(model, arithmetic)
        self.writer = Writer(model.text_decoder, model.config, arithmetic)

    @torch.inference_mode()
    def caption(self, images: Images, image_ids: Sequence[str], decoding: Decoding) -> list[list[Written]]:
        """``decoding.per_image`` captions an image; greedy and beam have nothing to draw and repeat theirs.

        The log-probability is the model's own, of every token written and of the end token if it was reached,
        before any penalty or truncation. Raises :class:`UsageError` for captions too long for the model.
        """
        prompt = [self.config.dec, *self.tokenizer.pieces(decoding.prompt)]
        self._require_room(prompt, decoding)
        if decoding.strategy == "beam":
            return [own * decoding.per_image for own in self._beams(images, prompt, decoding)]
        sampled = decoding.strategy != "greedy"
        rows = decoding.per_image if sampled else 1
        captions: list[dict[int, Written]] = [{} for _ in images]
        for row in self._write(images, image_ids, prompt, decoding, rows):
            captions[row.image][row.index] = Written(self.tokenizer.decode(row.tokens), row.logprob)
        return [[own[index] for index in sorted(own)] * (decoding.per_image // rows) for own in captions]

    def _require_room(self, prompt: Sequence[int], decoding: Decoding) -> None:
        if len(prompt) + decoding.max_tokens > self.config.max_positions:
            raise UsageError(
                what="the captions asked for are longer than the captioner can write",
                evidence=f"1 + {len(prompt) - 1} prompt tokens + max_tokens {decoding.max_tokens} "
                f"> {self.config.max_positions} positions",
                remedy="lower Decoding.max_tokens or shorten Decoding.prompt",
            )

    def _states(self, images: Images) -> Tensor:
        return self.vision.see(prepare(images, self.config.image_size, *self.pixels))

    def _write(
        self, images: Images, image_ids: Sequence[str], prompt: Sequence[int], decoding: Decoding, width: int
    ) -> Iterator[Row]:
        """Rows as they end, in any order."""
        capacity = max(1, min(self.batch // width, len(images)))
        cache = KVCache(self.writer, capacity, width, len(prompt) + decoding.max_tokens)
        rows: list[Row] = []
        entered = 0
        while rows or entered < len(images):
            free = capacity - cache.images
            # a few at a time: a prompt of one image alone would read all weights for a handful of tokens
            if entered < len(images) and free >= min(max(1, capacity // 4), len(images) - entered):
                numbers = range(entered, min(entered + free, len(images)))
                entered = numbers.stop
                logits = cache.admit(self._states([images[number] for number in numbers]), prompt)
                fresh = [
                    Row(number, index, CaptionRandom(decoding.seed, image_ids[number], index))
                    for number in numbers
                    for index in range(width)
                ]
                self._choose(fresh, logits.repeat_interleave(width, 0), prompt, decoding)
                rows += fresh
                yield from self._leave(rows, cache, decoding)
            if rows:
                last = torch.tensor([row.tokens[-1] for row in rows], device=cache.steps.device)
                self._choose(rows, cache.step(last), prompt, decoding)
                yield from self._leave(rows, cache, decoding)

    def _choose(self, rows: Sequence[Row], logits: Tensor, prompt: Sequence[int], decoding: Decoding) -> None:
        """Each row's next token, from ``logits`` (rows, vocabulary)."""
        longest = max(len(row.tokens) for row in rows)
        filler = prompt[0]  # already said by all
        said = [[*prompt, *row.tokens, *[filler] * (longest - len(row.tokens))] for row in rows]
        short = torch.tensor([len(row.tokens) < decoding.min_tokens for row in rows], device=logits.device)
        told = torch.tensor(said, device=logits.device)
        shaped = process_logits(logits, told, short, self.config.sep, decoding.penalty)
        if decoding.strategy == "greedy":
            chosen = shaped.argmax(-1)
        else:
            chosen = sample(shaped.softmax(-1), [row.stream for row in rows], decoding)
        gains = logits.log_softmax(-1).gather(1, chosen.to(logits.device)[:, None])[:, 0]
        for row, token, gain in zip(rows, chosen.tolist(), gains.tolist(), strict=True):
            row.tokens.append(token)
            row.logprob += gain

    def _leave(self, rows: list[Row], cache: KVCache, decoding: Decoding) -> Iterator[Row]:
        for number in reversed(range(len(rows))):
            row = rows[number]
            ended = row.tokens[-1] == self.config.sep
            if ended or len(row.tokens) == decoding.max_tokens:
                rows[number] = rows[-1]
                rows.pop()
                cache.leave(number)
                if ended:
                    row.tokens.pop()
                yield row

    def _beams(self, images: Images, prompt: Sequence[int], decoding: Decoding) -> Iterator[list[Written]]:
        some = max(1, self.batch // decoding.beams)
        for start in range(0, len(images), some):
            states = self._states(images[start : start + some])
            for tokens, logprob in search(self.writer, states, prompt, decoding):
                yield [Written(self.tokenizer.decode(tokens), logprob)]
