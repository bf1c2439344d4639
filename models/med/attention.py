"""Scaled dot-product attention over cached or fresh keys and values, for training.

Plain batched matmuls rather than ``scaled_dot_product_attention``: on CPUs they train about twice as fast.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KeyValue(NamedTuple):
    """Keys and values of one layer, each (rows, heads, positions, head width)."""

    key: Tensor
    value: Tensor

    def rows(self, index: Tensor) -> "KeyValue":
        """The rows in ``index`` (int64), e.g. the image that each text looks at.

        Not ``key[index]``: where a row is taken twice, its gradient then depends on the order in which threads add.
        """
        return KeyValue(self.key.index_select(0, index), self.value.index_select(0, index))

    def followed_by_rows(self, other: "KeyValue") -> "KeyValue":
        return KeyValue(torch.cat([self.key, other.key]), torch.cat([self.value, other.value]))

    def followed_by(self, later: "KeyValue") -> "KeyValue":
        return KeyValue(torch.cat([self.key, later.key], 2), torch.cat([self.value, later.value], 2))


def split_heads(states: Tensor, heads: int) -> Tensor:
    """(rows, positions, width) to (rows, heads, positions, width / heads)."""
    rows, positions, width = states.shape
    return states.view(rows, positions, heads, width // heads).transpose(1, 2)


def attend(query: Tensor, kept: KeyValue, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Attention of ``query`` (rows, heads, positions, head width); returns (rows, positions, width).

    ``bias`` is added to the scores: 0 where a query may look, -inf or very negative where not. Several rows
    may share one row of keys (captions of one image): rows = n * shared, kept in blocks; they become one
    matmul.
    """
    rows, heads, positions, width = query.shape
    shared = rows // kept.key.shape[0]
    if shared > 1:
        query = query.view(-1, shared, heads, positions, width).transpose(1, 2)
        query = query.reshape(-1, heads, shared * positions, width)
    scores = torch.matmul(query, kept.key.transpose(-1, -2)) * (1.0 / math.sqrt(width))
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    context = torch.matmul(weights, kept.value)
    if shared > 1:
        context = context.view(-1, heads, shared, positions, width).transpose(1, 2)
        context = context.reshape(rows, heads, positions, width)
    return context.transpose(1, 2).reshape(rows, positions, heads * width)


def initialise(module: nn.Module, spread: float) -> None:
    """Normal weights with standard deviation ``spread``, zero biases, unit norms; convolutions as He et
    al."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=spread)
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
