"""BLIP-2's judge (arXiv 2301.12597): a Q-Former whose queries look at the image and, for ITM, read the text too.

Its captioner is one of :mod:`capfilt.models.adapters.image_to_text`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import Blip2ForImageTextRetrieval

from capfilt.models.adapters.pretrained import (
    count_truncated,
    load_image_processor,
    load_model,
    load_tokenizer,
)
from capfilt.models.batching import batches, match_in_batches
from capfilt.models.checkpoint import Checkpoint
from capfilt.models.protocols import Images, Match
from capfilt.models.text.normalise import normalise_caption

MAX_TEXT_TOKENS = 32  # in training, as in LAVIS


class _Seen(NamedTuple):
    """``states``: (images, patches + 1, hidden); ``queries``: (images, queries, dim), each L2-normalised."""

    states: torch.Tensor
    queries: torch.Tensor


@dataclass(frozen=True)
class Blip2Matcher:
    """A :class:`~capfilt.models.protocols.Matcher` and :class:`~capfilt.models.protocols.Embedder`.

    An image has one ITC embedding a query, 32 in the released models, and its cosine with a text is the largest.
    One vector an image cannot say that, so :meth:`embed_images` gives their mean, an approximation: retrieval
    figures from it are lower than BLIP-2's own. ``Match.itc`` is exact.
    """

    model: Any
    image_processor: Any
    tokenizer: Any
    batch: int

    @classmethod
    def open(cls, checkpoint: Checkpoint, device: str = "cpu", batch: int = 16) -> "Blip2Matcher":
        """Raises :class:`ModelError` if weights are missing, or the tokenizer or preprocessor is unfit."""
        model = load_model(Blip2ForImageTextRetrieval, checkpoint).to(device)
        # Released tokenizers end with <image>, a placeholder for generating models.
        tokenizer = load_tokenizer(checkpoint, model.config.qformer_config, ("pad_token_id",), unused=1)
        return cls(model, load_image_processor(checkpoint), tokenizer, batch)

    @torch.inference_mode()
    def match(self, images: Images, texts: Sequence[Sequence[str]]) -> list[list[Match]]:
        """Each image is seen once; each of its texts is read alone (ITC) and by the queries (ITM)."""
        return match_in_batches(images, texts, self.batch, self._see, self._judge)

    @torch.inference_mode()
    def embed_images(self, images: Images) -> NDArray[np.float32]:
        seen = (self._see(chunk).queries.mean(1) for chunk in batches(images, self.batch))
        return self._stack([F.normalize(mean, dim=-1) for mean in seen])

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._stack([self._read(*self._tokens(chunk)) for chunk in batches(texts, self.batch)])

    @property
    def temperature(self) -> float:
        """BLIP's start: the released models have dropped theirs."""
        return 0.07

    def count_truncated(self, texts: Sequence[str]) -> int:
        return count_truncated(self.tokenizer, texts, MAX_TEXT_TOKENS)

    def _see(self, images: Images) -> _Seen:
        pixels = self.image_processor(images=list(images), return_tensors="pt").to(self.model.device)
        states = self.model.vision_model(**pixels).last_hidden_state
        queries = self.model.query_tokens.expand(len(states), -1, -1)
        looked = self.model.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state
        return _Seen(states, F.normalize(self.model.vision_projection(looked), dim=-1))

    def _tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, shape (texts, longest text), int64."""
        read = self.tokenizer(
            [normalise_caption(text) for text in texts],
            padding=True,
            truncation=True,
            max_length=MAX_TEXT_TOKENS,
            return_tensors="pt",
        ).to(self.model.device)
        return read["input_ids"], read["attention_mask"]

    def _read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """ITC embeddings of texts, shape (texts, dim), L2-normalised."""
        embedded = self.model.embeddings(input_ids=ids)
        read = self.model.qformer(query_embeds=embedded, query_length=0, attention_mask=mask)
        return F.normalize(self.model.text_projection(read.last_hidden_state[:, 0]), dim=-1)

    def _judge(self, seen: _Seen, rows: list[int], texts: list[str]) -> list[Match]:
        ids, mask = self._tokens(texts)
        cosine = torch.einsum("nqd,nd->nq", seen.queries[rows], self._read(ids, mask)).amax(1)
        queries = self.model.query_tokens.expand(len(rows), -1, -1)
        count = queries.shape[1]
        read = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=count,
            attention_mask=torch.cat([mask.new_ones(len(rows), count), mask], 1),
            encoder_hidden_states=seen.states[rows],
        ).last_hidden_state
        logits = self.model.itm_head(read[:, :count]).mean(1)
        itm = logits.double().softmax(-1)[:, 1]
        pairs = zip(itm.tolist(), cosine.clamp(-1.0, 1.0).tolist(), strict=True)
        return [Match(*pair) for pair in pairs]

    def _stack(self, parts: list[torch.Tensor]) -> NDArray[np.float32]:
        if not parts:
            return np.empty((0, self.model.config.image_text_hidden_size), np.float32)
        return torch.cat(parts).cpu().numpy().astype(np.float32, copy=False)
