import numpy as np
import pytest
import torch

from capfilt.data_contracts.errors import UsageError
from capfilt.models.adapters.generation import Draw, demand_room, processors
from capfilt.models.protocols import Decoding
from capfilt.models.random_numbers import CaptionRandom


def streams(count: int) -> list[CaptionRandom]:
    return [CaptionRandom(3, f"image-{row}", 0) for row in range(count)]


def test_the_draw_is_each_rows_own() -> None:
    ids, scores = torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, 50)
    together = Draw(streams(3), Decoding())(ids, scores)
    alone = Draw(streams(3)[2:], Decoding())(ids[2:], scores[2:])
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[0], together[1])
    assert together.isfinite().sum(1).tolist() == [1, 1, 1]  # whoever chooses now has no choice


@pytest.mark.parametrize(
    ("decoding", "kept"),
    [(Decoding(top_p=1.0), 3), (Decoding(top_p=0.7), 2), (Decoding(strategy="top_k", top_k=1), 1)],
)
def test_what_is_left_is_a_draw_from_the_truncated_softmax(decoding: Decoding, kept: int) -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0]])
    one = Draw([CaptionRandom(0, "image", 0)], decoding)
    drawn = np.bincount([int(one(torch.zeros(1, 1), scores).argmax()) for _ in range(3000)], minlength=3)
    wanted = scores.softmax(-1)[0].numpy() * (np.arange(3) < kept)
    assert np.allclose(drawn / 3000, wanted / wanted.sum(), atol=0.03)


def test_the_penalty_of_what_was_written_does_not_see_a_padded_prompt() -> None:
    """Two rows that wrote the same after prompts of different lengths, the shorter one padded on the left."""
    ids = torch.tensor([[9, 9, 5, 7], [1, 2, 5, 7]])
    scores = torch.ones(2, 10)
    whole, own = (
        processors(Decoding(top_p=1.0, min_tokens=0), 3, [0], ids.device, [], penalised_from=start)[0](
            ids, scores.clone()
        )
        for start in (0, 3)
    )
    assert not torch.equal(whole[0], whole[1])
    assert torch.equal(own[0], own[1])
    assert own[0].lt(1).nonzero().tolist() == [[7]]


def test_room_is_counted_in_tokens() -> None:
    demand_room(4, Decoding(max_tokens=20), 24)
    with pytest.raises(UsageError, match="4 prompt tokens \\+ max_tokens 20 > 23 positions"):
        demand_room(4, Decoding(max_tokens=20), 23)
