from typing import Any

import pytest

from capfilt.data_contracts.errors import RecipeError
from capfilt.models.protocols import Decoding


@pytest.mark.parametrize(
    ("strategy", "penalty"), [("nucleus", 1.1), ("top_k", 1.1), ("greedy", 1.0), ("beam", 1.0)]
)
def test_the_penalty_left_out_is_blips(strategy: Any, penalty: float) -> None:
    assert Decoding(strategy).penalty == penalty
    assert Decoding(strategy, repetition_penalty=1.7).penalty == 1.7


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_p": 0.0},
        {"top_k": 0},
        {"per_image": 0},
        {"beams": 0},
        {"repetition_penalty": 0.0},
        {"min_tokens": 9, "max_tokens": 8},
    ],
)
def test_what_cannot_be_decoded_with_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        Decoding(**wrong)
