"""The ways to caption and score that the engine is measured against, and the engine itself.

Each arm captions images ``captions`` times and scores their texts; what it returns is only looked at by the
comparison. All draw from a nucleus of 0.9, 5 to 20 tokens, repetition penalty 1.1, after BLIP's prompt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer
from transformers.models.blip.modeling_blip import BlipForConditionalGeneration, BlipForImageTextRetrieval

from capfilt.models.engine.matcher import EngineMatcher
from capfilt.models.images.prepare import prepare
from capfilt.models.open import open_captioner, open_filter
from capfilt.models.protocols import Decoding, Inference, Precision

Images = Sequence[Image.Image]
Texts = Sequence[Sequence[str]]
DECODING = Decoding(top_p=0.9, min_tokens=5, max_tokens=20)


class Arm(Protocol):
    def caption(self, images: Images, captions: int) -> object: ...

    def score(self, images: Images, texts: Texts) -> list[list[float]]: ...


class Engine:
    """capfilt. What it scores is ITM alone, as the others do; with the ITC cosine of every pair (``itc``) it is
    what ``capfilt`` runs."""

    def __init__(self, made: dict[str, Path], precision: Precision, batch: int, itc: bool = False) -> None:
        self.itc, inference = itc, Inference(precision)
        self.captioner = open_captioner(str(made["captioner"]), batch=batch, inference=inference)
        self.filter = open_filter(str(made["filter"]), batch=batch, inference=inference)

    def caption(self, images: Images, captions: int) -> object:
        names = [str(number) for number in range(len(images))]
        decoding = Decoding(**{**vars(DECODING), "per_image": captions})
        return self.captioner.caption(images, names, decoding)

    @torch.inference_mode()
    def score(self, images: Images, texts: Texts) -> list[list[float]]:
        if self.itc:
            return [[match.itm for match in own] for own in self.filter.match(images, texts)]
        matcher = self.filter
        assert isinstance(matcher, EngineMatcher)
        owners = [image for image, own in enumerate(texts) for _ in own]
        ids = matcher.ids([text for own in texts for text in own])
        values = iter(matcher.judge(matcher.states(images), ids, owners).tolist())
        return [[next(values) for _ in own] for own in texts]


class Transformers:
    """What the three arms of transformers share; ``made`` from the same directories."""

    def __init__(self, made: dict[str, Path], dtype: torch.dtype) -> None:
        load: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
        self.captioner = BlipForConditionalGeneration.from_pretrained(made["captioner"], **load).eval()
        self.filter = BlipForImageTextRetrieval.from_pretrained(made["filter"], **load).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(made["captioner"])
        self.dtype, self.pixels = dtype, self.captioner.config.vision_config.image_size
        self.sampling = {
            "do_sample": True,
            "top_p": DECODING.top_p,
            "top_k": 0,
            "repetition_penalty": DECODING.penalty,
            "min_new_tokens": DECODING.min_tokens,
            "max_new_tokens": DECODING.max_tokens,
        }

    def prepared(self, images: Images) -> Tensor:
        return prepare(images, self.pixels).to(self.dtype)

    def prompt(self, rows: int) -> Tensor:
        ids: Tensor = self.tokenizer([DECODING.prompt] * rows, return_tensors="pt").input_ids
        return ids

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        read = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        return {"input_ids": read["input_ids"], "attention_mask": read["attention_mask"]}


class OnePair(Transformers):
    """(a): float32, batch 1; every caption and every pair encodes its image again. So does Data-Juicer."""

    def __init__(self, made: dict[str, Path]) -> None:
        super().__init__(made, torch.float32)

    @torch.inference_mode()
    def caption(self, images: Images, captions: int) -> object:
        return [
            self.captioner.generate(self.prepared([image]), self.prompt(1), **self.sampling)
            for image in images
            for _ in range(captions)
        ]

    @torch.inference_mode()
    def score(self, images: Images, texts: Texts) -> list[list[float]]:
        return [
            [
                float(
                    self.filter(pixel_values=self.prepared([image]), **self.tokens([text]))
                    .itm_score.double()
                    .softmax(-1)[0, 1]
                )
                for text in own
            ]
            for image, own in zip(images, texts, strict=True)
        ]


class Batched(Transformers):
    """(b): bfloat16, batched; every pair still encodes its image."""

    def __init__(self, made: dict[str, Path]) -> None:
        super().__init__(made, torch.bfloat16)

    @torch.inference_mode()
    def caption(self, images: Images, captions: int) -> object:
        pixels = self.prepared(images)
        prompt = self.prompt(len(images))
        return self.captioner.generate(pixels, prompt, num_return_sequences=captions, **self.sampling)

    @torch.inference_mode()
    def score(self, images: Images, texts: Texts) -> list[list[float]]:
        owners = [row for row, own in enumerate(texts) for _ in own]
        flat = self.tokens([text for own in texts for text in own])
        logits = self.judge(self.prepared(images), owners, flat)
        values = iter(logits.double().softmax(-1)[:, 1].tolist())
        return [[next(values) for _ in own] for own in texts]

    def judge(self, pixels: Tensor, owners: list[int], tokens: dict[str, Tensor]) -> Tensor:
        scores: Tensor = self.filter(pixel_values=pixels[owners], **tokens).itm_score
        return scores


class Shared(Batched):
    """(b+): the same, with the image states computed once and repeated by hand."""

    @torch.inference_mode()
    def caption(self, images: Images, captions: int) -> object:
        states = self.captioner.vision_model(self.prepared(images)).last_hidden_state
        text = self.captioner.config.text_config
        prompt = self.prompt(len(images))[:, :-1]
        prompt[:, 0] = text.bos_token_id
        return self.captioner.text_decoder.generate(
            input_ids=prompt.repeat_interleave(captions, 0),
            encoder_hidden_states=states.repeat_interleave(captions, 0),
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
            **self.sampling,
        )

    def judge(self, pixels: Tensor, owners: list[int], tokens: dict[str, Tensor]) -> Tensor:
        states = self.filter.vision_model(pixels).last_hidden_state[owners]
        read = self.filter.text_encoder(**tokens, encoder_hidden_states=states).last_hidden_state
        logits: Tensor = self.filter.itm_head(read[:, 0])
        return logits
