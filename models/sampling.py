"""Random numbers that belong to a caption, not to a batch.

A caption's draws come from a Philox stream keyed by (run seed, image_id, caption index), so a caption does
not depend on its batch, its shard, the worker or the number of captions drawn beside it.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


class CaptionRandom:
    """Gumbel noise for one caption: adding it to log-probabilities and taking the argmax draws from them."""

    def __init__(self, seed: int, image_id: str, caption_index: int) -> None:
        digest = hashlib.sha256(f"{seed}\x1f{image_id}\x1f{caption_index}".encode()).digest()
        self._generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))

    def gumbel(self, vocabulary: int) -> NDArray[np.float32]:
        """The noise of the next step, shape (vocabulary,), float32."""
        return self._generator.gumbel(size=vocabulary).astype(np.float32)
