"""Writing with transformers' ``generate``, so that a caption belongs to its image and to nothing else.

The draws of a caption come from its own stream (:class:`~capfilt.models.random_numbers.CaptionRandom`); the sampling
of ``generate`` would draw from one stream for the batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, assert_never

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from capfilt.data_contracts.errors import UsageError
from capfilt.models.engine.sampling import sample
from capfilt.models.protocols import Decoding
from capfilt.models.random_numbers import CaptionRandom


class Tokens(NamedTuple):
    """What was written after the prompt, without the end token, and the sum of its log-probabilities in nats."""

    ids: list[int]
    logprob: float


def draws(decoding: Decoding) -> bool:
    """Whether captions are drawn, so that several of one image differ."""
    match decoding.strategy:
        case "nucleus" | "top_k":
            return True
        case "greedy" | "beam":
            return False
    assert_never(decoding.strategy)


class Draw(LogitsProcessor):
    """Draws each row's token from its own stream and leaves nothing else to choose, by argmax or by sampling."""

    def __init__(self, streams: Sequence[CaptionRandom], decoding: Decoding) -> None:
        self._streams, self._decoding = streams, decoding

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = sample(scores.float().softmax(-1), self._streams, self._decoding).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


def processors(
    decoding: Decoding,
    prompt: int,
    ends: int | list[int],
    device: torch.device,
    noise: Sequence[CaptionRandom],
    penalised_from: int = 0,
) -> LogitsProcessorList:
    """In the order of BLIP's own generation: penalty, length, then the draw.

    The repetition penalty counts tokens from ``penalised_from`` on, in a sequence whose first ``prompt`` tokens
    were given.
    """
    penalty = RepetitionPenaltyLogitsProcessor(decoding.penalty, penalised_from or None)
    length = MinNewTokensLengthLogitsProcessor(prompt, decoding.min_tokens, ends, device=str(device))
    if not draws(decoding):
        return LogitsProcessorList([penalty, length])
    return LogitsProcessorList([penalty, length, Draw(noise, decoding)])


def write(
    model: Any,
    inputs: Mapping[str, Any],
    special: Mapping[str, Any],
    prompt: int,
    decoding: Decoding,
    noise: Sequence[CaptionRandom],
    each: int = 1,
) -> list[Tokens]:
    """What ``model`` writes for each row of ``inputs``, after the ``prompt`` tokens that its sequences begin with.

    ``each`` texts a row, one after the other, so many in all as there are streams of ``noise``; more than one
    only when drawing.

    ``special`` has the ids of the special tokens as ``generate`` calls them, ``eos_token_id`` as a list. The
    log-probability is the model's own, through the end token if it was reached, before any penalty, truncation
    or noise. The penalty counts what was written alone: a padded prompt would bring a token of its neighbours.
    """
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        **special,
        do_sample=each > 1,
        num_return_sequences=each,
        num_beams=decoding.beams if decoding.strategy == "beam" else 1,
        max_new_tokens=decoding.max_tokens,
        return_dict_in_generate=True,
        output_logits=True,
    )
    ends = special["eos_token_id"]
    shaping = processors(decoding, prompt, ends, model.device, noise, penalised_from=prompt)
    found = model.generate(
        **inputs,
        generation_config=settings,
        logits_processor=shaping,
    )
    tokens = found.sequences[:, prompt:]
    logprobs = _logprobs(tokens, found.logits, found.get("beam_indices"))
    ended = torch.isin(tokens, torch.tensor(ends, device=tokens.device)).long()
    written = ended.cumsum(1) - ended == 0  # up to and at the first end token
    return [
        Tokens(row[keep & (end == 0)].tolist(), float(own[keep].sum()))
        for row, keep, end, own in zip(tokens, written, ended, logprobs.double(), strict=True)
    ]


def _logprobs(
    tokens: torch.Tensor, logits: Sequence[torch.Tensor], beams: torch.Tensor | None
) -> torch.Tensor:
    """Of each token, shape (rows, steps), float32; garbage behind the end.

    ``logits`` has one tensor a step, (rows or beams of the search, vocabulary); ``beams`` says which beam of
    the search a token of the result came from, -1 behind the end.
    """
    steps = tokens.shape[1]
    if beams is None:
        beams = torch.arange(len(tokens), device=tokens.device)[:, None].expand(-1, steps)
    columns = [
        scores.float().log_softmax(-1)[beams[:, step].clamp(min=0)].gather(1, tokens[:, step : step + 1])
        for step, scores in zip(range(steps), logits, strict=False)
    ]
    return torch.cat(columns, 1)


def demand_room(prompt: int, decoding: Decoding, positions: int) -> None:
    """:class:`UsageError` unless ``prompt`` tokens and a caption fit into the model's ``positions``."""
    if prompt + decoding.max_tokens > positions:
        raise UsageError(
            what="the captions asked for are longer than the captioner can write",
            evidence=f"{prompt} prompt tokens + max_tokens {decoding.max_tokens} > {positions} positions",
            remedy="lower Decoding.max_tokens or shorten Decoding.prompt",
        )
