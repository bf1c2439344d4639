"""Captioners of transformers: BLIP-2, GIT, ViT-GPT2 and its like, and any other image-to-text model.

What differs is how an image and a prompt become the model's inputs; writing is the same for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, BatchFeature, GenerationConfig

from capfilt.data_contracts.errors import ModelError
from capfilt.models.adapters.generation import demand_room, draws, write
from capfilt.models.adapters.pretrained import (
    load_image_processor,
    load_model,
    load_processor,
    load_tokenizer,
)
from capfilt.models.batching import batches
from capfilt.models.checkpoint import Checkpoint
from capfilt.models.protocols import Decoding, Images, Written
from capfilt.models.random_numbers import CaptionRandom

# Of the checkpoint's own generation settings these stay; lengths, penalties and strategies come from Decoding.
SPECIAL_TOKENS = (
    *("bos_token_id", "eos_token_id", "pad_token_id"),
    *("decoder_start_token_id", "forced_bos_token_id"),
)


class Inputs(NamedTuple):
    """What ``generate`` takes, and how many tokens its sequences begin with before anything is written."""

    given: BatchFeature
    prompt: int


Prepare = Callable[[list[Image.Image], str], Inputs]


@dataclass(frozen=True)
class ImageToText:
    """A :class:`~capfilt.models.protocols.Captioner`; ``batch`` captions are decoded at once, all of an image
    together.

    ``prompt`` of the decoding is what a plain captioner goes on from, and what a chat model is asked.
    """

    model: Any
    tokenizer: Any
    prepare: Prepare
    special: dict[str, Any]
    positions: int | None
    batch: int

    @classmethod
    def open(cls, checkpoint: Checkpoint, device: str = "cpu", batch: int = 16) -> "ImageToText":
        """Raises :class:`ModelError` if weights are missing or tokenizer or preprocessor is unfit."""
        model = load_model(AutoModelForImageTextToText, checkpoint).to(device)
        # BLIP-2 hands over to a language model, which then writes with settings of its own.
        writer = model.language_model if checkpoint.model_type == "blip-2" else model
        text = writer.config.get_text_config(decoder=True)
        settings = writer.generation_config
        # Otherwise the checkpoint's own settings would fill what a call leaves open.
        writer.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        if checkpoint.model_type in ("blip-2", "git", "vision-encoder-decoder"):
            tokenizer = load_tokenizer(checkpoint, text, special=())
            special = _special(settings, tokenizer, checkpoint)
            start = special["decoder_start_token_id"]
            _demand_places(checkpoint, model.config)
            prepare = _after_prefix(model.config, load_image_processor(checkpoint), tokenizer, start)
        else:
            processor = load_processor(checkpoint)
            tokenizer = processor.tokenizer
            special = _special(settings, tokenizer, checkpoint)
            prepare = _through(processor, getattr(model.config, "is_encoder_decoder", False))
        return cls(model, tokenizer, prepare, special, getattr(text, "max_position_embeddings", None), batch)

    @torch.inference_mode()
    def caption(self, images: Images, image_ids: Sequence[str], decoding: Decoding) -> list[list[Written]]:
        """``decoding.per_image`` captions an image; greedy and beam have nothing to draw and repeat theirs.

        :class:`UsageError` for captions too long for the model.
        """
        each, copies = (decoding.per_image, 1) if draws(decoding) else (1, decoding.per_image)
        captions: list[list[Written]] = []
        for chunk in batches(list(zip(images, image_ids, strict=True)), max(1, self.batch // each)):
            given, begun = self.prepare([image for image, _ in chunk], decoding.prompt)
            if self.positions is not None:
                demand_room(begun, decoding, self.positions)
            noise = [
                CaptionRandom(decoding.seed, name, caption) for _, name in chunk for caption in range(each)
            ]
            written = write(
                self.model, given.to(self.model.device), self.special, begun, decoding, noise, each
            )
            texts = self.tokenizer.batch_decode([tokens.ids for tokens in written], skip_special_tokens=True)
            rows = [
                Written(text.strip(), tokens.logprob) for text, tokens in zip(texts, written, strict=True)
            ]
            captions += [rows[start : start + each] * copies for start in range(0, len(rows), each)]
        return captions


def _after_prefix(config: Any, image_processor: Any, tokenizer: Any, start: int | None) -> Prepare:
    """Pixels, and a text that begins as the family's does: the same tokens for every image."""

    def prepare(images: list[Image.Image], prompt: str) -> Inputs:
        plain = tokenizer(prompt, add_special_tokens=False).input_ids
        decoder, begun = "", 0
        if config.model_type == "blip-2":
            places = [config.image_token_index] * config.num_query_tokens
            ids = places + tokenizer(prompt).input_ids
            begun = 1 if config.text_config.is_encoder_decoder else len(ids)
        elif config.model_type == "git":
            ids = [tokenizer.cls_token_id, *plain]
        else:
            decoder, ids = "decoder_", [start, *plain]
        tokens = torch.tensor([ids] * len(images))
        text = {f"{decoder}input_ids": tokens, f"{decoder}attention_mask": torch.ones_like(tokens)}
        pixels = image_processor(images=images, return_tensors="pt")
        return Inputs(BatchFeature({**pixels, **text}), begun or len(ids))

    return prepare


def _through(processor: Any, encoder_decoder: bool) -> Prepare:
    """The model's own processor: as a user's turn of a chat where it has a template, as plain text otherwise."""
    processor.tokenizer.padding_side = "left"

    def prepare(images: list[Image.Image], prompt: str) -> Inputs:
        if processor.chat_template:
            said = [{"type": "text", "text": prompt}] if prompt else []
            turns = [
                [{"role": "user", "content": [{"type": "image", "image": image}, *said]}] for image in images
            ]
            found = processor.apply_chat_template(
                turns,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        else:
            found = processor(images=images, text=[prompt] * len(images), return_tensors="pt", padding=True)
        return Inputs(found, 1 if encoder_decoder else found["input_ids"].shape[1])

    return prepare


def _demand_places(checkpoint: Checkpoint, config: Any) -> None:
    """Early BLIP-2 checkpoints do not say which token stands for the image, and transformers no longer guesses."""
    if checkpoint.model_type == "blip-2" and config.image_token_index is None:
        raise ModelError(
            what=f"{checkpoint.where} does not say where its image goes in the text",
            evidence="no image_token_index in its config.json",
            remedy="take a later revision of the checkpoint, such as the current Salesforce/blip2-opt-2.7b",
        )


def _special(settings: GenerationConfig, tokenizer: Any, checkpoint: Checkpoint) -> dict[str, Any]:
    """The special tokens as ``generate`` calls them; BERT's tokenizers end with [SEP]."""
    special = {name: getattr(settings, name) for name in SPECIAL_TOKENS}
    end = special["eos_token_id"]
    end = next(
        (one for one in (end, tokenizer.eos_token_id, tokenizer.sep_token_id) if one is not None), None
    )
    if end is None:
        raise ModelError(
            what=f"nothing says where a caption of {checkpoint.where} ends",
            evidence="no eos_token_id in its configuration, no end token in its tokenizer",
            remedy="put the generation_config.json it came with beside the weights",
        )
    special["eos_token_id"] = end if isinstance(end, list) else [end]
    if special["pad_token_id"] is None:
        special["pad_token_id"] = special["eos_token_id"][0]
    return special
