"""The next token of each row: the likeliest, or drawn from a nucleus or from the k likeliest.

No sort: a token is drawn from the whole distribution and kept if the mass (or the number) of strictly likelier
ones is small enough; else another is drawn. What is kept is exactly a draw from the truncated distribution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.protocols import Decoding
from models.sampling import CaptionRandom

_BLOCK = 128


def shape(logits: Tensor, said: Tensor, short: Tensor, end: int, penalty: float) -> Tensor:
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


def draw(logits: Tensor, streams: Sequence[CaptionRandom], decoding: Decoding) -> Tensor:
    """One token a row of ``logits`` (rows, vocabulary), float32; returns (rows,), int64, on the CPU.

    Every row has its own stream of random numbers and takes as many as it needs.
    """
    probability = logits.softmax(-1)
    blocks = -(-probability.shape[1] // _BLOCK)
    padded = F.pad(probability, (0, blocks * _BLOCK - probability.shape[1])).unflatten(1, (blocks, _BLOCK))
    heights = padded.sum(-1, dtype=torch.float64).cumsum(-1)  # a search in blocks, then in one of them
    chosen = torch.empty(len(logits), dtype=torch.int64)
    for row, stream in enumerate(streams):
        own, height = probability[row], heights[row]
        while True:
            aim = stream.uniform() * float(height[-1])
            block = min(int(torch.searchsorted(height, aim, right=True)), blocks - 1)
            within = padded[row, block].cumsum(0, dtype=torch.float64)
            rest = aim - (float(height[block - 1]) if block else 0.0)
            place = min(int(torch.searchsorted(within, rest, right=True)), _BLOCK - 1)
            token = min(block * _BLOCK + place, len(own) - 1)
            if float(own[token]) > 0.0 and _inside(own, float(own[token]), decoding):
                break
        chosen[row] = token
    return chosen


def _inside(probability: Tensor, own: float, decoding: Decoding) -> bool:
    if decoding.strategy == "top_k":
        return int((probability > own).sum()) < decoding.top_k
    if own > 1.0 - decoding.top_p:
        return True  # all others together have less than top_p
    return float(F.threshold(probability, own, 0.0).sum()) < decoding.top_p
