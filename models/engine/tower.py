"""The text stack of the engine: one tower of MED with the cross-attention and MLP it shares.

States of all texts stand below each other, (tokens, width), without padding: the matrix products see nothing
else. Only attention, a small part of the work, pads: a :class:`Packing` says where the tokens of each group
are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.engine.attention import fastest, plain
from models.engine.linear import Arithmetic
from models.med.attention import KeyValue
from models.med.config import MedConfig
from models.med.text import TextLayer, TextModel


@dataclass(frozen=True)
class Packing:
    """Where the tokens of each group are among all tokens, and back.

    ``grid`` (groups, longest) int64 points to tokens (to the first one where there is none); ``places``
    (tokens,) int64 points into the flattened grid; ``bias`` (groups, 1, 1, longest) is 0 or -inf.
    """

    grid: Tensor
    places: Tensor
    bias: Tensor

    @classmethod
    def of(
        cls, groups: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device, fewest: int = 1
    ) -> "Packing":
        """``groups`` hold token numbers; each token is in one group."""
        longest = max(fewest, *map(len, groups))
        grid = torch.tensor([[*group, *[0] * (longest - len(group))] for group in groups])
        bias = torch.zeros(len(groups), 1, 1, longest, dtype=dtype)
        tokens = sum(map(len, groups))
        places = torch.empty(tokens, dtype=torch.int64)
        for number, group in enumerate(groups):
            bias[number, ..., len(group) :] = -torch.inf
            places[list(group)] = torch.arange(len(group)) + number * longest
        return cls(grid.to(device), places.to(device), bias.to(device))

    def spread(self, states: Tensor, heads: int) -> Tensor:
        """(tokens, width) to (groups, heads, longest, width / heads)."""
        return states[self.grid].view(*self.grid.shape, heads, -1).transpose(1, 2)

    def gather(self, context: Tensor) -> Tensor:
        """The inverse of :meth:`spread`."""
        return context.transpose(1, 2).flatten(2).flatten(0, 1)[self.places]


class Layer:
    def __init__(self, layer: TextLayer, config: MedConfig, arithmetic: Arithmetic) -> None:
        own, cross = layer.attention, layer.crossattention
        self.qkv = arithmetic.linear(own.self.query, own.self.key, own.self.value)
        self.out, self.norm = arithmetic.linear(own.output.dense), arithmetic.norm(own.output.LayerNorm)
        self.cross_query = arithmetic.linear(cross.self.query)
        self.cross_key_value = arithmetic.linear(cross.self.key, cross.self.value)
        self.cross_out = arithmetic.linear(cross.output.dense)
        self.cross_norm = arithmetic.norm(cross.output.LayerNorm)
        self.fc1 = arithmetic.linear(layer.intermediate.dense, act=config.text_act)
        self.fc2, self.fc_norm = (
            arithmetic.linear(layer.output.dense),
            arithmetic.norm(layer.output.LayerNorm),
        )

    def after_self(self, context: Tensor, states: Tensor) -> Tensor:
        return self.norm(self.out(context, states))

    def after_cross(self, context: Tensor, states: Tensor) -> Tensor:
        return self.cross_norm(self.cross_out(context, states))

    def mix(self, states: Tensor) -> Tensor:
        return self.fc_norm(self.fc2(self.fc1(states), states))


class Tower:
    """``model``'s weights in the engine's precision."""

    def __init__(self, model: TextModel, config: MedConfig, arithmetic: Arithmetic) -> None:
        self.heads, self.arithmetic, self.width = config.text_heads, arithmetic, config.text_width
        embeddings = model.embeddings
        self.words = arithmetic.tensor(embeddings.word_embeddings.weight)
        self.positions = arithmetic.tensor(embeddings.position_embeddings.weight)
        self.norm = arithmetic.norm(embeddings.LayerNorm)
        self.layers = [Layer(layer, config, arithmetic) for layer in model.encoder.layers()]
        shape = (16, self.heads, 2, self.width // self.heads)  # a decoding step's
        self.look = fastest(shape, config.patches + 1, arithmetic.dtype, arithmetic.device)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """(tokens, width) of ``ids`` at ``positions``, both (tokens,) int64."""
        return self.norm(self.words[ids] + self.positions[positions])

    def keys_values(self, layer: Layer, image_states: Tensor) -> KeyValue:
        """Cross-attention keys and values (n, heads, positions, width / heads), views of one product."""
        n, positions, width = image_states.shape
        both = layer.cross_key_value(image_states.reshape(n * positions, width))
        key, value = both.view(n, positions, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return KeyValue(key, value)

    def read(
        self, texts: Sequence[Sequence[int]], image_states: Tensor | None, owners: Sequence[int]
    ) -> Tensor:
        """The final state of each text's first token, (texts, width); both directions, as an encoder.

        ``owners`` name the row of ``image_states`` (n, positions, width) that a text looks at; all of an
        image's texts are rows of one product with its keys, which are computed once. Without states the text
        is read alone.
        """
        device = self.words.device
        dtype = self.arithmetic.dtype
        ids = torch.tensor([token for text in texts for token in text], device=device)
        positions = torch.tensor([place for text in texts for place in range(len(text))], device=device)
        starts = [0]
        for text in texts[:-1]:
            starts.append(starts[-1] + len(text))
        rows = [range(start, start + len(text)) for start, text in zip(starts, texts, strict=True)]
        own = Packing.of(rows, dtype, device)
        first = torch.tensor(starts, device=device)
        alone = Packing.of([[number] for number in range(len(texts))], dtype, device)
        images = 0 if image_states is None else len(image_states)
        shown = [[number for number, owner in enumerate(owners) if owner == image] for image in range(images)]
        whole = (
            Packing.of([[token for row in of for token in rows[row]] for of in shown], dtype, device)
            if images
            else None
        )
        firsts = Packing.of(shown, dtype, device) if images else None
        states = self.embed(ids, positions)
        for layer in self.layers:
            last = layer is self.layers[-1]
            query, key, value = layer.qkv(states).chunk(3, -1)
            if last:  # only the first token's state is asked for
                query, states = query[first], states[first]
            packing, look = (alone, firsts) if last else (own, whole)
            context = plain(
                packing.spread(query, self.heads),
                own.spread(key, self.heads),
                own.spread(value, self.heads),
                own.bias,
            )
            states = layer.after_self(packing.gather(context), states)
            if image_states is not None and look is not None:
                kept = self.keys_values(layer, image_states)
                seen = self.look(look.spread(layer.cross_query(states), self.heads), *kept)
                states = layer.after_cross(look.gather(seen), states)
            states = layer.mix(states)
        return states
