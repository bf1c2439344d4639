"""Attention of the engine, by the path that is faster on this machine.

CPUs without AMX run ``scaled_dot_product_attention`` at a third of the speed of plain products, and at the few
queries of a decoding step at a tenth; GPUs the other way round. A timing of milliseconds decides, once a
process. The two paths differ by rounding only; the plain one keeps the place unless the other is twice as
fast, so that workers on one kind of machine do not disagree.
"""

import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

_MARGIN = 2.0
_CACHE = 1 << 20  # bytes of scores at a time: a core's second-level cache


def plain(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """(n, heads, queries, width) against (n, heads, positions, width); ``bias`` is added to the scores."""
    n, heads, queries, width = query.shape
    scores = torch.baddbmm(
        query.new_zeros(()),
        query.reshape(n * heads, queries, width),
        key.reshape(n * heads, -1, width).transpose(1, 2),
        beta=0,
        alpha=width**-0.5,
    )
    if bias is not None:
        scores = (scores.view(n, heads, queries, -1) + bias).flatten(0, 1)
    weights = scores.softmax(-1)
    return torch.bmm(weights, value.reshape(n * heads, -1, width)).view(n, heads, queries, width)


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


@lru_cache(maxsize=16)
def fastest(shape: tuple[int, int, int, int], positions: int, dtype: torch.dtype, device: str) -> Attend:
    """The faster path for queries of ``shape`` (n, heads, queries, width) against ``positions`` keys."""
    n, heads, _, width = shape
    query = torch.ones(shape, dtype=dtype, device=device)
    key = torch.ones((n, heads, positions, width), dtype=dtype, device=device)
    ours: Attend = plain_in_cache if shape[2] > 64 and torch.device(device).type == "cpu" else plain
    seconds = [_seconds(attend, query, key) for attend in (ours, F.scaled_dot_product_attention)]
    return F.scaled_dot_product_attention if seconds[0] > _MARGIN * seconds[1] else ours


def _seconds(attend: Attend, query: Tensor, key: Tensor) -> float:
    # On a CPU its own time: another process must not decide which path is taken, and with it the last bits.
    clock = time.perf_counter if query.is_cuda else time.process_time

    def once() -> float:
        start = clock()
        attend(query, key, key)
        if query.is_cuda:
            torch.cuda.synchronize(query.device)
        return clock() - start

    once()  # the first call sets things up
    return min(once() for _ in range(3))
