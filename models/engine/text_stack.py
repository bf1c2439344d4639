"""The text stack of the engine: one tower of MED with the cross-attention and MLP it shares.

States of all texts stand below each other, (tokens, width), without padding: the matrix products see nothing
else. Only attention, a small part of the work, pads: a :class:`Packing` says where the tokens of each group
are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from capfilt.models.engine.attention import attention, plain
from capfilt.models.engine.linear import Arithmetic, product
from capfilt.models.med.attention import KeyValue
from capfilt.models.med.config import MedConfig
from capfilt.models.med.text import TextLayer, TextModel

# Queries an image, as a share of a head's width, up to which looking through is faster than projecting.
_FEW = 0.75
# Sums over the tokens of a text are over a multiple of these, pads included: the kernels take another order for other
# lengths, and the length is that of the longest text beside it.
_TOGETHER = 16


@dataclass(frozen=True)
class Packing:
    """Where the tokens of each group are among all tokens, and back.

    ``grid`` (groups, length) int64 points to tokens (to the first one where there is none); ``places``
    (tokens,) int64 points into the flattened grid; ``bias`` (groups, 1, 1, length) is 0 or -inf.
    """

    grid: Tensor
    places: Tensor
    bias: Tensor

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]], arithmetic: Arithmetic, step: int = 1) -> "Packing":
        """``groups`` hold token numbers; each token is in one group. The length is that of the longest group, or
        the next multiple of ``step``."""
        device = arithmetic.device
        length = -(-max(arithmetic.fewest, *map(len, groups)) // step) * step
        grid = torch.tensor([[*group, *[0] * (length - len(group))] for group in groups])
        bias = torch.zeros(len(groups), 1, 1, length, dtype=arithmetic.dtype)
        tokens = sum(map(len, groups))
        places = torch.empty(tokens, dtype=torch.int64)
        for number, group in enumerate(groups):
            bias[number, ..., len(group) :] = -torch.inf
            places[list(group)] = torch.arange(len(group)) + number * length
        return cls(grid.to(device), places.to(device), bias.to(device))

    def spread(self, states: Tensor) -> Tensor:
        """(tokens, width) to (groups, length, width)."""
        return states[self.grid]

    def gather(self, spread: Tensor) -> Tensor:
        """The inverse of :meth:`spread`."""
        return spread.flatten(0, 1)[self.places]


class PackedTextLayer:
    def __init__(self, layer: TextLayer, config: MedConfig, arithmetic: Arithmetic) -> None:
        own, cross = layer.attention, layer.crossattention
        self.qkv = arithmetic.linear(own.self.query, own.self.key, own.self.value)
        self.out, self.norm = arithmetic.linear(own.output.dense), arithmetic.norm(own.output.LayerNorm)
        self.cross_query = arithmetic.linear(cross.self.query)
        self.cross_key_value = arithmetic.linear(cross.self.key, cross.self.value)
        # by head: from queries into the space of image states, and from there to what heads put out
        heads = (config.text_heads, -1, config.vision_width)
        self.into = arithmetic.tensor(cross.self.key.weight).view(heads)
        self.out_of = arithmetic.tensor(cross.self.value.weight).view(heads).transpose(1, 2).contiguous()
        self.value_bias = arithmetic.tensor(cross.self.value.bias)
        self.fewest = arithmetic.fewest
        self.cross_out = arithmetic.linear(cross.output.dense)
        self.cross_norm = arithmetic.norm(cross.output.LayerNorm)
        self.fc1 = arithmetic.linear(layer.intermediate.dense, act=config.text_act)
        self.fc2 = arithmetic.linear(layer.output.dense)
        self.fc_norm = arithmetic.norm(layer.output.LayerNorm)

    def cross_attend(self, query: Tensor, image_states: Tensor) -> Tensor:
        """Cross-attention of queries (n, m, width) to image states (n, positions, width) without their keys and
        values; returns (n, m, width).

        A score is ``q' (W x)``, which is ``(W' q)' x``: queries go to the space of the image states, and what
        they see comes back from there. For fewer queries than a head is wide this is less work than to project
        all positions, and there is nothing to keep for each layer. The key's bias adds the same to all scores
        of a query, so it changes no weight.
        """
        n, m, width = query.shape
        heads, size, _ = self.into.shape
        there = self._by_head(query.reshape(n * m, heads, size) * size**-0.5, self.into)
        weights = product(there.view(n, m * heads, -1), image_states.transpose(1, 2)).softmax(-1)
        seen = product(weights, image_states).view(n * m, heads, -1)
        return self._by_head(seen, self.out_of).view(n, m, width) + self.value_bias

    def _by_head(self, states: Tensor, weights: Tensor) -> Tensor:
        """(rows, heads, a) times (heads, a, b) to (rows, heads, b), contiguous."""
        rows = len(states)
        if rows < self.fewest:
            states = F.pad(states, (0, 0, 0, 0, 0, self.fewest - rows))
        return product(states.transpose(0, 1), weights).transpose(0, 1)[:rows].contiguous()

    def after_self(self, context: Tensor, states: Tensor) -> Tensor:
        return self.norm(self.out(context, states))

    def after_cross(self, context: Tensor, states: Tensor) -> Tensor:
        return self.cross_norm(self.cross_out(context, states))

    def mix(self, states: Tensor) -> Tensor:
        return self.fc_norm(self.fc2(self.fc1(states), states))


class PackedTextStack:
    """``model``'s weights in the engine's precision."""

    def __init__(self, model: TextModel, config: MedConfig, arithmetic: Arithmetic) -> None:
        self.heads, self.arithmetic, self.width = config.text_heads, arithmetic, config.text_width
        embeddings = model.embeddings
        self.words = arithmetic.tensor(embeddings.word_embeddings.weight)
        self.positions = arithmetic.tensor(embeddings.position_embeddings.weight)
        self.norm = arithmetic.norm(embeddings.LayerNorm)
        self.layers = [PackedTextLayer(layer, config, arithmetic) for layer in model.encoder.layers()]
        self.look = attention(arithmetic.device, plain)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """(tokens, width) of ``ids`` at ``positions``, both (tokens,) int64."""
        return self.norm(self.words[ids] + self.positions[positions])

    def keys_values(self, layer: PackedTextLayer, image_states: Tensor) -> KeyValue:
        """Cross-attention keys and values (n, heads, positions, width / heads), views of one product."""
        n, positions, width = image_states.shape
        both = layer.cross_key_value(image_states.reshape(n * positions, width))
        key, value = both.view(n, positions, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return KeyValue(key, value)

    def are_few(self, tokens: int) -> bool:
        """Whether so many tokens of an image look through with less work than its keys and values would be."""
        return tokens <= _FEW * self.width / self.heads

    def _cross_attention(
        self, layer: PackedTextLayer, query: Tensor, image_states: Tensor, few: bool
    ) -> Tensor:
        n, m, width = query.shape
        if few:
            return layer.cross_attend(query, image_states)
        seen = self.look(self.split(query), *self.keys_values(layer, image_states))
        return seen.transpose(1, 2).reshape(n, m, width)

    def split(self, states: Tensor) -> Tensor:
        """(n, m, width) to (n, heads, m, width / heads)."""
        return states.unflatten(2, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return, no-untyped-call]

    def read(
        self,
        texts: Sequence[Sequence[int]],
        image_states: Tensor | None = None,
        owners: Sequence[int] = (),
        few: bool = True,
    ) -> Tensor:
        """The final state of each text's first token, (texts, width); both directions, as an encoder.

        ``owners`` name the row of ``image_states`` (n, positions, width) that a text looks at; all of an
        image's texts are rows of one product with its keys, which are computed once, or not at all where an image has
        ``few`` tokens (:meth:`are_few`). Without states the text is read alone.
        """
        device = self.words.device
        ids = torch.tensor([token for text in texts for token in text], device=device)
        positions = torch.tensor([place for text in texts for place in range(len(text))], device=device)
        ends = list(accumulate(map(len, texts)))
        rows = [range(end - len(text), end) for end, text in zip(ends, texts, strict=True)]
        own = Packing.of(rows, self.arithmetic, _TOGETHER)
        first = torch.tensor([row.start for row in rows], device=device)
        alone = Packing.of([[number] for number in range(len(texts))], self.arithmetic)
        whole = firsts = None
        if image_states is not None:
            of: list[list[int]] = [[] for _ in image_states]
            for number, owner in enumerate(owners):
                of[owner].append(number)
            tokens = [[token for row in some for token in rows[row]] for some in of]
            whole, firsts = Packing.of(tokens, self.arithmetic), Packing.of(of, self.arithmetic)
        states = self.embed(ids, positions)
        for layer in self.layers:
            last = layer is self.layers[-1]
            query, key, value = layer.qkv(states).chunk(3, -1)
            if last:  # only the first token's state is asked for
                query, states = query[first], states[first]
            packing, look = (alone, firsts) if last else (own, whole)
            context = plain(
                self.split(packing.spread(query)),
                self.split(own.spread(key)),
                self.split(own.spread(value)),
                own.bias,
            )
            states = layer.after_self(packing.gather(context.transpose(1, 2).flatten(2)), states)
            if image_states is not None and look is not None:
                seen = self._cross_attention(
                    layer, look.spread(layer.cross_query(states)), image_states, few or last
                )
                states = layer.after_cross(look.gather(seen), states)
            states = layer.mix(states)
        return states
