"""BLIP as transformers implements it, behind our protocols: the plain reference, correct before fast.

The weights are Hugging Face checkpoints (arXiv 2201.12086): ``BlipForConditionalGeneration`` writes captions,
``BlipForImageTextRetrieval`` judges them. Both are opened from a local :class:`~models.checkpoint.Checkpoint`
in float32; nothing is downloaded and no code from the checkpoint runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import GenerationConfig
from transformers.models.blip.modeling_blip import BlipForConditionalGeneration, BlipForImageTextRetrieval

from data_contracts.errors import ModelError
from models.batching import batches
from models.checkpoint import Checkpoint, pixel_statistics
from models.generation import demand_room, processors
from models.images import CLIP_MEAN, CLIP_STD, RGB, prepare
from models.pretrained import load_model, load_tokenizer
from models.protocols import Decoding, Images, Match, Written
from models.sampling import CaptionRandom
from models.text import normalise_caption

# BLIP's retrieval code cuts texts here, in training and in judging; later positions were never finetuned.
MAX_TEXT_TOKENS = 35


@dataclass(frozen=True)
class Eyes:
    """The vision transformer with the preparation it was trained with."""

    vision_model: Any
    size: int
    mean: RGB
    std: RGB

    @classmethod
    def of(cls, model: Any, checkpoint: Checkpoint) -> "Eyes":
        mean, std = pixel_statistics(checkpoint)
        return cls(
            model.vision_model, model.config.vision_config.image_size, mean or CLIP_MEAN, std or CLIP_STD
        )

    def see(self, images: Images) -> torch.Tensor:
        """Image states, shape (images, patches + 1, hidden), float32."""
        pixels = prepare(images, self.size, self.mean, self.std).to(self.vision_model.device)
        states: torch.Tensor = self.vision_model(pixels).last_hidden_state
        return states


@dataclass(frozen=True)
class BlipCaptioner:
    """A :class:`~models.protocols.Captioner`; ``batch`` captions are decoded at once."""

    eyes: Eyes
    model: Any
    tokenizer: Any
    batch: int

    @classmethod
    def open(cls, checkpoint: Checkpoint, device: str = "cpu", batch: int = 16) -> "BlipCaptioner":
        """Raises :class:`ModelError` if weights are missing or the tokenizer does not fit them."""
        model = load_model(BlipForConditionalGeneration, checkpoint).to(device)
        # Otherwise the checkpoint's own defaults, lengths and penalties, fill what a call leaves open.
        model.text_decoder.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        tokenizer = load_tokenizer(checkpoint, model.config.text_config)
        return cls(Eyes.of(model, checkpoint), model, tokenizer, batch)

    @torch.inference_mode()
    def caption(self, images: Images, image_ids: Sequence[str], decoding: Decoding) -> list[list[Written]]:
        """``decoding.per_image`` captions an image; greedy and beam have nothing to draw and repeat theirs.

        The log-probability is the model's own, of every token written and of the end token if it was reached,
        before any penalty, truncation or noise. :class:`UsageError` for captions too long for the model.
        """
        prompt = self._prompt(decoding)
        each, copies = (decoding.per_image, 1) if decoding.strategy == "nucleus" else (1, decoding.per_image)
        rows = [(image, caption) for image in range(len(images)) for caption in range(each)]
        captions: list[list[Written]] = [[] for _ in images]
        for chunk in batches(rows, self.batch):
            shown = sorted({image for image, _ in chunk})
            states = self.eyes.see([images[image] for image in shown])
            states = states[[shown.index(image) for image, _ in chunk]]
            noise = [CaptionRandom(decoding.seed, image_ids[image], caption) for image, caption in chunk]
            for (image, _), written in zip(chunk, self._write(states, prompt, decoding, noise), strict=True):
                captions[image] += [written] * copies
        return captions

    def _prompt(self, decoding: Decoding) -> list[int]:
        text = self.model.config.text_config
        words = self.tokenizer(decoding.prompt, add_special_tokens=False).input_ids
        demand_room(1 + len(words), decoding, text.max_position_embeddings)
        return [text.bos_token_id, *words]

    def _write(
        self, states: torch.Tensor, prompt: list[int], decoding: Decoding, noise: list[CaptionRandom]
    ) -> list[Written]:
        text = self.model.config.text_config
        prompts = torch.tensor([prompt], device=states.device).repeat(len(states), 1)
        sequences = self.model.text_decoder.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            encoder_hidden_states=states,
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                do_sample=False,
                num_beams=decoding.beams if decoding.strategy == "beam" else 1,
                max_new_tokens=decoding.max_tokens,
                bos_token_id=text.bos_token_id,
                eos_token_id=text.sep_token_id,
                pad_token_id=text.pad_token_id,
            ),
            logits_processor=processors(decoding, len(prompt), text.sep_token_id, states.device, noise),
        )
        tokens = sequences[:, len(prompt) :]
        logprobs = self._logprobs(sequences, states, len(prompt))
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [Written(text.strip(), logprob) for text, logprob in zip(texts, logprobs, strict=True)]

    def _logprobs(self, sequences: torch.Tensor, states: torch.Tensor, start: int) -> list[float]:
        """Sum over each sequence's tokens from ``start`` through its first end token, in nats.

        One more forward pass, the same for every strategy: ``generate`` keeps the raw logits of beams in
        the order of the search, not of its result.
        """
        logits = self.model.text_decoder(
            input_ids=sequences[:, :-1],
            encoder_hidden_states=states,
            logits_to_keep=sequences.shape[1] - start,
            use_cache=False,
        ).logits
        tokens = sequences[:, start:]
        logprobs = F.log_softmax(logits.float(), -1).gather(-1, tokens[..., None])[..., 0]
        ended = (tokens == self.model.config.text_config.sep_token_id).long()
        before_end = ended.cumsum(1) - ended == 0  # true up to and at the first end token
        return [float(total) for total in (logprobs.double() * before_end).sum(1)]


@dataclass(frozen=True)
class BlipMatcher:
    """A :class:`~models.protocols.Matcher` and :class:`~models.protocols.Embedder`.

    Texts are read as BLIP reads them: :func:`~models.text.normalise_caption`, then at most 35 tokens.

    ``itm_token`` is the first token of a text in the matching head. transformers keeps [CLS] (``cls``), which
    the released scores come from; BLIP was trained with [ENC] (``enc``). Scores differ, so a threshold holds
    for one of them only.
    """

    eyes: Eyes
    model: Any
    tokenizer: Any
    batch: int
    itm_token: Literal["cls", "enc"] = "cls"

    @classmethod
    def open(
        cls,
        checkpoint: Checkpoint,
        device: str = "cpu",
        batch: int = 16,
        itm_token: Literal["cls", "enc"] = "cls",
    ) -> "BlipMatcher":
        """Raises :class:`ModelError` if weights are missing or the tokenizer does not fit them."""
        model = load_model(BlipForImageTextRetrieval, checkpoint).to(device)
        tokenizer = load_tokenizer(checkpoint, model.config.text_config)
        text = model.config.text_config
        if itm_token == "enc" and _enc_id(tokenizer, text) >= text.vocab_size:
            raise ModelError(
                what=f"{checkpoint.where} has no [ENC] token",
                evidence=f"not in its tokenizer, and the model's {text.vocab_size} embeddings end with [DEC]",
                remedy="judge with itm_token cls",
            )
        return cls(Eyes.of(model, checkpoint), model, tokenizer, batch, itm_token)

    @torch.inference_mode()
    def match(self, images: Images, texts: Sequence[Sequence[str]]) -> list[list[Match]]:
        """Each image is seen once; each of its texts is read alone (ITC) and with the image (ITM)."""
        matches: list[list[Match]] = [[] for _ in images]
        for shown in batches(range(len(images)), self.batch):
            states = self.eyes.see([images[i] for i in shown])
            seen = self._project(self.model.vision_proj, states)
            pairs = [(row, i, text) for row, i in enumerate(shown) for text in texts[i]]
            for chunk in batches(pairs, self.batch):
                rows = [row for row, _, _ in chunk]
                ids, mask = self._tokens([text for _, _, text in chunk])
                itc = (self._read(ids, mask) * seen[rows]).sum(1)
                itm = self._judge(ids, mask, states[rows])
                for (_, i, _), probability, cosine in zip(chunk, itm.tolist(), itc.tolist(), strict=True):
                    matches[i].append(Match(probability, max(-1.0, min(1.0, cosine))))
        return matches

    @torch.inference_mode()
    def embed_images(self, images: Images) -> NDArray[np.float32]:
        parts = [
            self._project(self.model.vision_proj, self.eyes.see(chunk))
            for chunk in batches(images, self.batch)
        ]
        return self._stack(parts)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._stack([self._read(*self._tokens(chunk)) for chunk in batches(texts, self.batch)])

    def _tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, shape (texts, longest text), int64."""
        limit = min(MAX_TEXT_TOKENS, self.model.config.text_config.max_position_embeddings)
        read = self.tokenizer(
            [normalise_caption(text) for text in texts],
            padding=True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
        ).to(self.model.device)
        return read["input_ids"], read["attention_mask"]

    def _read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """ITC embeddings of texts, shape (texts, dim), L2-normalised."""
        states = self.model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self._project(self.model.text_proj, states)

    def _judge(self, ids: torch.Tensor, mask: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """ITM probability of each text with its image, shape (texts,), float64: float32 rounds to 1 soon."""
        if self.itm_token == "enc":
            ids = ids.clone()
            ids[:, 0] = _enc_id(self.tokenizer, self.model.config.text_config)
        read = self.model.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=states)
        logits: torch.Tensor = self.model.itm_head(read.last_hidden_state[:, 0])
        return logits.double().softmax(-1)[:, 1]

    @staticmethod
    def _project(projection: Any, states: torch.Tensor) -> torch.Tensor:
        return F.normalize(projection(states[:, 0]), dim=-1)

    def _stack(self, parts: list[torch.Tensor]) -> NDArray[np.float32]:
        if not parts:
            return np.empty((0, self.model.config.image_text_hidden_size), np.float32)
        return torch.cat(parts).cpu().numpy().astype(np.float32, copy=False)


def _enc_id(tokenizer: Any, text: Any) -> int:
    """[ENC]; released checkpoints carry BERT's tokenizer, without it: BLIP added it right after [DEC]."""
    known = tokenizer.get_vocab().get("[ENC]")
    return int(known) if known is not None else int(text.bos_token_id) + 1
