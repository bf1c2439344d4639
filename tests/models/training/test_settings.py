import pytest

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.training.settings import (
    CaptionerSettings,
    FilterSettings,
    LoopSettings,
    PretrainSettings,
    WarmupSettings,
)


def test_a_batch_is_gone_through_in_equal_parts() -> None:
    assert LoopSettings(steps=1, lr=1e-3, batch=8, accumulate=2).rows == 4


@pytest.mark.parametrize("every", [None, 0, 3])
def test_when_the_held_out_pairs_are_looked_at(every: int | None) -> None:
    settings = WarmupSettings(steps=20, validate_every=every)
    looked = [done for done in range(1, 21) if settings.looks(done)]
    assert looked == {None: list(range(2, 21, 2)), 0: [], 3: [3, 6, 9, 12, 15, 18, 20]}[every]


def test_pretraining_weighs_one_loss_more_than_the_filter() -> None:
    assert FilterSettings().weights == {"itc": 1.0, "itm": 1.0}
    assert PretrainSettings(lm=0.5).weights == {"itc": 1.0, "itm": 1.0, "lm": 0.5}


def test_the_shares_of_a_batch_are_at_most_a_batch() -> None:
    assert PretrainSettings(human_share=0.5, cleaned_share=0.5).other_shares(3, 4) == (0.0, 0.5)
    with pytest.raises(TrainingError, match="more than a batch"):
        PretrainSettings(human_share=0.6, cleaned_share=0.5).other_shares(3, 4)


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        CaptionerSettings().steps = 3  # type: ignore[misc]  # what it raises is the test
