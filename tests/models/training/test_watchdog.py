"""What is stopped, and what is not."""

import pytest

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.training.watchdog import PATIENCE, Watch


def feed(watch: Watch, steps: int, total: int = 10_000, **figures: float) -> None:
    for step in range(1, steps + 1):
        watch({"step": step, "steps": total, "lr": 0.1, "grad_norm": 1.0, "loss": 1.0, **figures})


@pytest.mark.parametrize("temperature", [0.5, 0.001])
def test_a_temperature_at_its_bound(temperature: float) -> None:
    watch = Watch()
    feed(watch, PATIENCE, temperature=temperature, itc=4.2)
    feed(watch, 1, temperature=0.2, itc=4.2)  # it came back: all is well
    with pytest.raises(TrainingError, match="temperature is stuck at its bound"):
        feed(watch, PATIENCE + 1, temperature=temperature, itc=4.2)


def test_itm_that_answers_the_same_long_after_itc_aligned() -> None:
    watch = Watch()
    feed(watch, 2 * PATIENCE, recall=0.3, itm_accuracy=0.667)  # ITC has not aligned: it may come
    with pytest.raises(TrainingError, match="ITM has collapsed"):
        feed(watch, PATIENCE + 1, recall=0.9, itm_accuracy=0.667)
    feed(Watch(), 2 * PATIENCE, recall=0.9, itm_accuracy=0.8)


def test_a_loss_that_rises() -> None:
    watch = Watch()
    feed(watch, 200, lm=2.0)
    with pytest.raises(TrainingError, match="diverges") as caught:
        feed(watch, 200, lm=9.0)
    assert "it was 2.00" in caught.value.evidence


def test_one_class_nothing_learnt_and_one_caption_at_the_end() -> None:
    flat = {
        "validation_images": 50,
        "validation_itm_auc": 0.5,
        "validation_yes": 0.0,
        "validation_itc_auc": 0.5,
    }
    with pytest.raises(TrainingError, match="calls nothing a match"):
        feed(Watch(), 5, total=5, **flat)
    with pytest.raises(TrainingError, match="nothing was learnt that holds for other human pairs"):
        feed(Watch(), 5, total=5, **flat | {"validation_yes": 0.3})
    with pytest.raises(TrainingError, match="nothing was learnt that holds for other human pairs"):
        feed(Watch(), 5, total=5, lm=1.0, **flat)
    same = {"validation_images": 50, "validation_same": 0.95}
    with pytest.raises(TrainingError, match="writes the same for every image"):
        feed(Watch(), 5, total=5, **same, validation_same_human=0.1)
    feed(Watch(), 5, total=5, **same, validation_same_human=0.9)  # so do people
    feed(Watch(), 5, total=6, **flat)  # it has not ended
    feed(Watch(), 5, total=5, **flat | {"validation_images": 20})  # too few images prove nothing


def test_a_restart_forgets_nothing() -> None:
    first, second = Watch(), Watch()
    feed(first, PATIENCE, temperature=0.5)
    second.load_state_dict(first.state_dict())
    with pytest.raises(TrainingError, match="temperature"):
        feed(second, 1, temperature=0.5)
