from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from capfilt.models.engine.sampling import process_logits, sample
from capfilt.models.protocols import Decoding
from capfilt.models.random_numbers import CaptionRandom

NOTHING = torch.zeros(2, dtype=torch.bool)


def test_the_penalty_is_ctrls_and_leaves_the_rest() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0, 0.5], [2.0, -2.0, 1.0, 0.5]])
    said = torch.tensor([[0, 1, 1], [2, 2, 2]])
    shaped = process_logits(logits, said, NOTHING, 3, 2.0)
    assert shaped.tolist() == [[1.0, -4.0, 1.0, 0.5], [2.0, -2.0, 0.5, 0.5]]
    assert logits[0, 0] == 2.0
    assert process_logits(logits, said, NOTHING, 3, 1.0) is logits


def test_short_rows_do_not_end() -> None:
    logits = torch.zeros(2, 4)
    shaped = process_logits(logits, torch.zeros(2, 1, dtype=torch.int64), torch.tensor([True, False]), 3, 1.0)
    assert shaped[:, 3].tolist() == [-torch.inf, 0.0]
    assert logits.abs().sum() == 0


class Given:
    """A stream of numbers that are known."""

    def __init__(self, *values: float) -> None:
        self.values: Iterator[float] = iter(values)

    def uniform(self) -> float:
        return next(self.values)


def test_a_number_picks_the_token_whose_mass_it_falls_in() -> None:
    """Over a vocabulary of several blocks, with a last one that is not whole."""
    probability = torch.zeros(1, 300)
    probability[0, [0, 127, 128, 255, 256, 299]] = torch.tensor([0.1, 0.2, 0.1, 0.2, 0.3, 0.1])
    everything = Decoding(top_p=1.0)
    for number, token in ((0.05, 0), (0.15, 127), (0.35, 128), (0.55, 255), (0.7, 256), (0.95, 299)):
        assert sample(probability, [Given(number)], everything).tolist() == [token]  # type: ignore[list-item]


def test_what_is_outside_is_drawn_again() -> None:
    probability = torch.tensor([[0.05, 0.6, 0.05, 0.3]])
    for decoding in (Decoding(top_p=0.8), Decoding("top_k", top_k=2)):
        stream: Any = Given(0.01, 0.66, 0.9)  # tokens 0 and 2 are outside, 3 is in
        assert sample(probability, [stream], decoding).tolist() == [3]


@pytest.mark.parametrize("decoding", [Decoding(top_p=0.8), Decoding("top_k", top_k=3)])
def test_draws_are_in_proportion(decoding: Decoding) -> None:
    probability = torch.tensor([0.4, 0.05, 0.25, 0.2, 0.1])  # either way 0, 2 and 3 stay
    draws = 8_000
    streams = [CaptionRandom(0, "image", number) for number in range(draws)]
    counts = Counter(sample(probability.expand(draws, -1), streams, decoding).tolist())
    assert counts.keys() == {0, 2, 3}
    expected = {0: 0.4, 2: 0.25, 3: 0.2}
    chi_square = sum(
        (counts[token] - draws * share / 0.85) ** 2 / (draws * share / 0.85)
        for token, share in expected.items()
    )
    assert chi_square < 13.8  # two degrees of freedom, p = 0.001
