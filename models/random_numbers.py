"""Random numbers that belong to a caption, not to a batch.

A caption's draws come from a Philox stream keyed by (run seed, image_id, caption index), so a caption does
not depend on its batch, its shard, the worker or the number of captions drawn beside it.
"""

import hashlib

import numpy as np


class CaptionRandom:
    """The numbers of one caption, in the order in which it asks for them."""

    def __init__(self, seed: int, image_id: str, caption_index: int) -> None:
        digest = hashlib.sha256(f"{seed}\x1f{image_id}\x1f{caption_index}".encode()).digest()
        self._generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))

    def uniform(self) -> float:
        """The next number, in [0, 1)."""
        return self._generator.random()
