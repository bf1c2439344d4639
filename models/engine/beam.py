"""Beam search, batched over images, with the results of transformers' own (5.23, its default settings)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from capfilt.models.engine.kv_cache import KVCache, Writer
from capfilt.models.engine.sampling import process_logits
from capfilt.models.protocols import Decoding


class Ended(NamedTuple):
    """A finished beam: its score a token, its tokens without the end, and their log-probability with it."""

    score: float
    tokens: list[int]
    logprob: float


@dataclass
class Search:
    """The beams of one image, the likeliest first; ``scores`` include the penalty, ``logprobs`` do not."""

    scores: list[float]
    logprobs: list[float]
    tokens: list[list[int]]
    ended: list[Ended] = field(default_factory=list)
    decided: bool = False


def search(
    writer: Writer, states: Tensor, prompt: Sequence[int], decoding: Decoding
) -> list[tuple[list[int], float]]:
    """Tokens and log-probability of the best beam of each image; ``states`` (n, positions, width).

    Each step looks at the ``2 * beams`` best continuations of an image: at most ``beams`` of them end, so
    enough stay alive. An image is decided when its best live beam is below its worst finished one.
    """
    beams, n, end = decoding.beams, len(states), writer.config.sep
    cache = KVCache(writer, n, beams, len(prompt) + decoding.max_tokens)
    # all beams start alike: only the first may spread, or all would be one
    alone = [0.0, *[-1e9] * (beams - 1)]
    searches = [Search(list(alone), [0.0] * beams, [[] for _ in range(beams)]) for _ in range(n)]
    logits = cache.admit(states, prompt).repeat_interleave(beams, 0)
    for step in range(decoding.max_tokens):
        raw = logits.log_softmax(-1)
        said = torch.tensor([[*prompt, *own] for one in searches for own in one.tokens], device=raw.device)
        short = torch.full((len(raw),), step < decoding.min_tokens, device=raw.device)
        totals = torch.tensor([one.scores for one in searches], device=raw.device)
        scores = process_logits(raw, said, short, end, decoding.penalty) + totals.view(-1, 1)
        best, places = scores.view(n, -1).topk(2 * beams, 1)
        width = raw.shape[1]
        rows = places // width + torch.arange(n, device=raw.device)[:, None] * beams
        gains = raw[rows, places % width]
        columns = (part.tolist() for part in (best, places // width, places % width, gains))
        sources: list[int] = []
        for number, (one, *found) in enumerate(zip(searches, *columns, strict=True)):
            chosen = _advance(one, list(zip(*found, strict=True)), step + 1, end, decoding)
            sources += [number * beams + source for source in chosen]
        if all(one.decided for one in searches) or step + 1 == decoding.max_tokens:
            break
        cache.follow(torch.tensor(sources, device=raw.device))
        logits = cache.step(
            torch.tensor([own[-1] for one in searches for own in one.tokens], device=raw.device)
        )
    return [(best_of.tokens, best_of.logprob) for best_of in (max(one.ended, key=_score) for one in searches)]


def _advance(
    one: Search, found: list[tuple[float, int, int, float]], length: int, end: int, decoding: Decoding
) -> list[int]:
    """Take the next step of one image; ``found`` are its best continuations: score, beam, token, gain.

    Returns the beam that each of its new beams goes on from.
    """
    last = length == decoding.max_tokens
    live: list[tuple[float, float, list[int], int]] = []
    for rank, (score, beam, token, gain) in enumerate(found):
        tokens, logprob = one.tokens[beam], one.logprobs[beam] + gain
        if token != end and not last:
            live.append((score, logprob, [*tokens, token], beam))
        elif rank < decoding.beams and not one.decided:
            one.ended.append(Ended(score / length, tokens if token == end else [*tokens, token], logprob))
    one.ended = sorted(one.ended, key=_score, reverse=True)[: decoding.beams]
    live = live[: decoding.beams]
    if last:
        return []
    one.scores, one.logprobs = [each[0] for each in live], [each[1] for each in live]
    one.tokens = [each[2] for each in live]
    if len(one.ended) == decoding.beams and one.scores[0] / length <= one.ended[-1].score:
        one.decided = True
    return [each[3] for each in live]


def _score(ended: Ended) -> float:
    return ended.score
