"""What a stage may ask of a model: write captions, match texts to images, embed both.

Images are RGB :class:`PIL.Image.Image`; every model prepares them in its own way. Texts are plain strings.
Implementations hold no state that depends on the order of calls: the same input gives the same output
whatever else is in the batch (up to floating point error of batched arithmetic).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from capfilt.data_contracts.errors import RecipeError

Images = Sequence[Image.Image]
Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Decoding:
    """How captions are decoded. All of it can change a caption, so all of it is identity.

    BLIP (arXiv 2201.12086, section 3.3) uses nucleus sampling with p = 0.9 for CapFilt. Lengths count tokens
    after the prompt, the end token excluded. ``repetition_penalty`` (CTRL's) applies to every strategy; left
    out it is BLIP's: 1.1 when sampling, none otherwise.
    """

    strategy: Literal["nucleus", "top_k", "greedy", "beam"] = "nucleus"
    top_p: float = 0.9
    top_k: int = 50
    per_image: int = 1
    min_tokens: int = 5
    max_tokens: int = 20
    repetition_penalty: float | None = None
    beams: int = 3
    prompt: str = "a picture of"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises :class:`RecipeError` for a value that cannot be decoded with."""
        sound = {
            "top_p": 0.0 < self.top_p <= 1.0,
            "per_image": self.per_image >= 1,
            "min_tokens": 0 <= self.min_tokens <= self.max_tokens,
            "max_tokens": self.max_tokens >= 1,
            "top_k": self.top_k >= 1,
            "repetition_penalty": self.penalty > 0.0,
            "beams": self.beams >= 1,
        }
        if wrong := [name for name, fine in sound.items() if not fine]:
            raise RecipeError(
                what=f"captions cannot be decoded with this {wrong[0]}",
                evidence=f"{wrong[0]} is {getattr(self, wrong[0])!r}",
                remedy="top_p lies in (0, 1]; per_image, top_k, beams: at least 1; min_tokens: at most max_tokens",
            )

    @property
    def penalty(self) -> float:
        """The repetition penalty in effect."""
        if self.repetition_penalty is not None:
            return self.repetition_penalty
        return 1.1 if self.strategy in ("nucleus", "top_k") else 1.0


@dataclass(frozen=True)
class Inference:
    """How a model computes. All of it can change a score or a caption, so all of it is identity.

    ``precision``: ``fp32``; ``bf16``, about twice as fast where the hardware has it; ``int8``, faster still on
    CPUs, the last digits of probabilities differ (the benchmark reports by how much). ``itm_token`` is the
    first token of a text in the matching head: left out, what the model itself records (see
    :class:`~capfilt.models.med.config.MedConfig`).
    """

    precision: Precision = "fp32"
    itm_token: Literal["cls", "enc"] | None = None


FLOAT32 = Inference()


class Written(NamedTuple):
    """One caption without its prompt, and the sum of its tokens' log-probabilities in nats."""

    text: str
    logprob: float


class Match(NamedTuple):
    """How well a text fits an image: ITM probability of a match in [0, 1], ITC cosine in [-1, 1].

    CLIP gives no probability: its ``itm`` is a rank in [0, 1]
    (:class:`~capfilt.models.adapters.dual_encoder.DualEncoder`).
    """

    itm: float
    itc: float


class Captioner(Protocol):
    """Writes captions."""

    def caption(self, images: Images, image_ids: Sequence[str], decoding: Decoding) -> list[list[Written]]:
        """``decoding.per_image`` captions an image; draws depend on (seed, image_id, caption index) alone."""
        ...


class Matcher(Protocol):
    """Judges texts by images."""

    def match(self, images: Images, texts: Sequence[Sequence[str]]) -> list[list[Match]]:
        """One :class:`Match` for every text of every image; each image is encoded once."""
        ...


class Embedder(Protocol):
    """``temperature`` is what the model divides cosines by before a softmax over them."""

    @property
    def temperature(self) -> float: ...

    def count_truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than what the model reads of them."""
        ...

    def embed_images(self, images: Images) -> NDArray[np.float32]:
        """ITC embeddings, shape (images, dim), float32, L2-normalised."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """ITC embeddings, shape (texts, dim), float32, L2-normalised."""
        ...
