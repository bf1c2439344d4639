"""Attention of the engine: ``scaled_dot_product_attention`` (SDPA) on GPUs, on CPUs what is fast and exact there.

CPUs without AMX run SDPA in bfloat16 at half the speed of plain products, and at the few queries of a decoding step
at a tenth. In float32 it is the faster one, up to three times, but only for a fixed number of queries are its bits
the same in any company: it is for images. Nothing is timed: workers would choose differently now and then, and a
score would have other last bits.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from capfilt.models.engine.linear import product

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

_CACHE = 1 << 20  # bytes of scores at a time: a core's second-level cache


def plain(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """(n, heads, queries, width) against (n, heads, positions, width); ``bias`` is added to the scores."""
    n, heads, queries, width = query.shape
    keys, values = (each.reshape(n * heads, -1, width) for each in (key, value))
    scores = product(query.reshape(n * heads, queries, width), keys.transpose(1, 2), width**-0.5)
    if bias is not None:
        scores = (scores.view(n, heads, queries, -1) + bias).flatten(0, 1)
    return product(scores.softmax(-1), values).view(n, heads, queries, width)


def plain_in_cache(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same for many queries: as many heads of one image at a time as have scores that fit in the cache."""
    n, heads, queries, width = query.shape
    positions = key.shape[2]
    some = max(1, min(heads, _CACHE // max(1, queries * positions * query.element_size())))
    scores = query.new_empty(some, queries, positions)
    result = query.new_empty(n, queries, heads, width).transpose(1, 2)
    keys, nothing = key.transpose(2, 3), query.new_zeros(())
    for image in range(n):
        for head in range(0, heads, some):
            own = slice(head, min(head + some, heads))
            part = scores[: own.stop - own.start]
            torch.baddbmm(nothing, query[image, own], keys[image, own], beta=0, alpha=width**-0.5, out=part)
            result[image, own] = torch.bmm(part.softmax(-1), value[image, own])
    return result


def attention(device: str, on_cpu: Attend) -> Attend:
    """The path to take on ``device``."""
    return on_cpu if torch.device(device).type == "cpu" else F.scaled_dot_product_attention
