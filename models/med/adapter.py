"""A MED directory as a captioner, a matcher and an embedder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.images import prepare
from models.med.checkpoint import load
from models.med.decode import decode
from models.med.model import Med
from models.med.tokenizer import CaptionTokenizer
from models.protocols import Decoding, Images, Match, Written


class MedModel:
    """Implements :class:`Captioner`, :class:`Matcher` and :class:`Embedder`; ``batch`` images go together."""

    def __init__(self, model: Med, tokenizer: CaptionTokenizer, batch: int = 64) -> None:
        self.model, self.tokenizer, self.batch = model.eval(), tokenizer, batch

    @torch.inference_mode()
    def caption(self, images: Images, image_ids: Sequence[str], decoding: Decoding) -> list[list[Written]]:
        """Captions as :class:`Captioner` has them; the prompt is neither scored nor returned."""
        prompt = self.tokenizer.pieces(decoding.prompt)
        room = self.model.config.max_positions - 1 - len(prompt)
        decoding = _shortened(decoding, room)
        captions: list[list[Written]] = []
        for start in range(0, len(images), self.batch):
            names = image_ids[start : start + self.batch]
            states = self._states(images[start : start + self.batch])
            image = self.model.text_encoder.image_keys_values(states)
            captions += [
                [Written(self.tokenizer.decode(tokens.ids), tokens.logprob) for tokens in own]
                for own in decode(self.model, image, prompt, decoding, names)
            ]
        return captions

    @torch.inference_mode()
    def match(self, images: Images, texts: Sequence[Sequence[str]]) -> list[list[Match]]:
        """ITM probability and ITC cosine of every text of every image; an image is encoded once."""
        matches: list[list[Match]] = []
        for start in range(0, len(images), self.batch):
            own = texts[start : start + self.batch]
            if not any(own):
                matches += [[] for _ in own]
                continue
            states = self._states(images[start : start + self.batch])
            owner = torch.tensor(
                [number for number, some in enumerate(own) for _ in some], device=states.device
            )
            flat = [text for some in own for text in some]
            ids = self._ids(flat)
            cosine = (self.model.embed_images(states)[owner] * self.model.embed_texts(ids)).sum(1)
            image = self.model.text_encoder.image_keys_values(states)
            ids[:, 0] = self.model.config.enc
            logits = self.model.match(ids, [layer.rows(owner) for layer in image])
            pairs = zip(logits.softmax(1)[:, 1].tolist(), cosine.tolist(), strict=True)
            scored = (Match(itm, itc) for itm, itc in pairs)
            matches += [[next(scored) for _ in some] for some in own]
        return matches

    @torch.inference_mode()
    def embed_images(self, images: Images) -> NDArray[np.float32]:
        parts = [
            self.model.embed_images(self._states(images[start : start + self.batch]))
            for start in range(0, len(images), self.batch)
        ]
        return self._array(parts)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        parts = [
            self.model.embed_texts(self._ids(texts[start : start + self.batch]))
            for start in range(0, len(texts), self.batch)
        ]
        return self._array(parts)

    def _states(self, images: Images) -> torch.Tensor:
        pixels = prepare(images, self.model.config.image_size)
        return self.model.encode_images(pixels.to(self.model.temp.device))

    def _ids(self, texts: Sequence[str]) -> torch.Tensor:
        return self.tokenizer.encode(texts, self.model.config.max_tokens).to(self.model.temp.device)

    def _array(self, parts: list[torch.Tensor]) -> NDArray[np.float32]:
        if not parts:
            return np.empty((0, self.model.config.projection), dtype=np.float32)
        return torch.cat(parts).cpu().numpy()


def open_med(directory: Path, device: str = "cpu", batch: int = 64) -> MedModel:
    """Open a model directory. Raises :class:`ModelError` for one that is not ours or damaged."""
    return MedModel(*load(directory, device), batch=batch)


def _shortened(decoding: Decoding, room: int) -> Decoding:
    return replace(decoding, max_tokens=min(decoding.max_tokens, room))
