"""The next token of each row: the likeliest, or drawn from a nucleus or from the k likeliest.

No sort: a token is drawn from the whole distribution and kept if the mass (or the number) of strictly likelier
ones is small enough; else another is drawn. What is kept is exactly a draw from the truncated distribution.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from capfilt.models.protocols import Decoding
from capfilt.models.random_numbers import CaptionRandom

_BLOCK = 128


def process_logits(logits: Tensor, said: Tensor, short: Tensor, end: int, penalty: float) -> Tensor:
    """``logits`` (rows, vocabulary) as the decoding wants them; the given ones stay as they are.

    CTRL's repetition penalty divides the logits of tokens in ``said`` (rows, any; int64), or multiplies negative
    ones (a log-probability, that is what beams have, is always negative); rows in ``short`` (rows,) bool must
    not take the ``end`` token yet.
    """
    shaped = logits
    if penalty != 1.0:
        known = logits.gather(1, said)
        shaped = logits.scatter(1, said, torch.where(known > 0, known / penalty, known * penalty))
    if short.any():
        shaped = shaped.clone() if shaped is logits else shaped
        shaped[:, end].masked_fill_(short, -torch.inf)
    return shaped


def sample(probability: Tensor, streams: Sequence[CaptionRandom], decoding: Decoding) -> Tensor:
    """One token a row of ``probability`` (rows, vocabulary), float32; returns (rows,), int64, on the CPU.

    Every row has its own stream of random numbers and takes as many as it needs.
    """
    probability = probability.cpu()
    whole = probability.shape[1] // _BLOCK * _BLOCK
    blocks = probability[:, :whole].view(len(probability), -1, _BLOCK).sum(-1)
    heights = torch.cat([blocks, probability[:, whole:].sum(-1, keepdim=True)], 1).cumsum(
        -1, dtype=torch.float64
    )
    levels = heights.numpy()
    chosen = [
        _sample(own, level, stream, decoding)
        for own, level, stream in zip(probability, levels, streams, strict=True)
    ]
    return torch.tensor(chosen)


def _sample(
    probability: Tensor, heights: NDArray[np.float64], stream: CaptionRandom, decoding: Decoding
) -> int:
    """From one row: a search among blocks of tokens, whose summed masses are ``heights``, then in one block."""
    values = probability.numpy()
    while True:
        aim = stream.uniform() * float(heights[-1])
        block = min(int(heights.searchsorted(aim, "right")), len(heights) - 1)
        within = values[block * _BLOCK : (block + 1) * _BLOCK].cumsum(dtype=np.float64)
        rest = aim - (float(heights[block - 1]) if block else 0.0)
        token = block * _BLOCK + min(int(within.searchsorted(rest, "right")), len(within) - 1)
        own = float(values[token])
        if own > 0.0 and _inside(probability, own, decoding):
            return token


def _inside(probability: Tensor, own: float, decoding: Decoding) -> bool:
    if decoding.strategy == "top_k":
        return int((probability > own).sum()) < decoding.top_k
    if own > 1.0 - decoding.top_p:
        return True  # all others together have less than top_p
    return float(F.threshold(probability, own, 0.0).sum()) < decoding.top_p
