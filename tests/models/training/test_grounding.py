from dataclasses import replace
from typing import Any

import pytest
import torch

from capfilt.data_contracts.errors import TrainingError
from capfilt.models.med.model import Med
from capfilt.models.med.tokenizer import CaptionTokenizer
from capfilt.models.text.edits import Edits
from capfilt.models.training.data import Batches, PairSource
from capfilt.models.training.grounding import Grounding
from capfilt.models.training.pairs import PairSet
from capfilt.models.training.settings import FilterSettings, PretrainSettings

SETTINGS = PretrainSettings(steps=10, batch=8, itm_from=0.0, crop=1.0, seed=3)


def losses(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet, step: int = 0, **changes: Any
) -> dict[str, float]:
    settings = replace(SETTINGS, **changes)
    batches = Batches([PairSource(pairs, 1.0)], tokenizer, SETTINGS, max_tokens=20)
    learner = Grounding(model.eval(), settings, batches, "cpu")
    return {name: float(value.detach()) for name, value in learner(step).items()}


def test_the_loss_is_the_weighted_sum(model: Med, tokenizer: CaptionTokenizer, pairs: PairSet) -> None:
    plain = losses(model, tokenizer, pairs)
    assert plain["loss"] == pytest.approx(plain["itc"] + plain["itm"] + plain["lm"])
    weighed = losses(model, tokenizer, pairs, itc=0.5, itm=2.0, lm=3.0)
    assert {name: weighed[name] for name in ("itc", "itm", "lm")} == pytest.approx(
        {name: plain[name] for name in ("itc", "itm", "lm")}
    )
    assert weighed["loss"] == pytest.approx(0.5 * plain["itc"] + 2 * plain["itm"] + 3 * plain["lm"])


def test_edited_texts_come_in_as_negatives_harden(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    pairs = PairSet(
        pairs.images,
        [[f"a {own[0].replace(' above ', ' dog above a ')} cat"] for own in pairs.own],
        pairs.image_ids,
    )
    edits = Edits.of(text for own in pairs.own for text in own)

    def itm(edits: Edits | None, skill: float) -> float:
        settings = replace(SETTINGS, hard_from=0.5)
        batches = Batches([PairSource(pairs, 1.0)], tokenizer, settings, max_tokens=20, edits=edits)
        learner = Grounding(model.eval(), settings, batches, "cpu")
        learner.skill.fill_(skill)
        return learner(0)["itm"].item()

    assert itm(edits, skill=0.0) == pytest.approx(itm(None, skill=0.0))
    some, every = itm(edits, skill=0.25), itm(edits, skill=0.5)
    assert len({some, every, itm(None, skill=0.25), itm(None, skill=0.5)}) == 4


@pytest.mark.parametrize("name", ["itc", "itm", "lm"])
def test_each_loss_can_be_switched_off(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet, name: str
) -> None:
    plain, without = losses(model, tokenizer, pairs), losses(model, tokenizer, pairs, **{name: 0.0})
    assert name not in without
    others = [other for other in ("itc", "itm", "lm") if other != name]
    assert without["loss"] == pytest.approx(sum(plain[other] for other in others))


@pytest.mark.parametrize("weights", [{"itm": -1.0}, {"itc": 0.0, "itm": 0.0, "lm": 0.0}])
def test_weights_that_teach_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="cannot be weighed"):
        PretrainSettings(**weights)
    with pytest.raises(TrainingError, match="cannot be weighed"):
        FilterSettings(itc=0.0, itm=0.0)


def test_soft_targets_are_ramped_up(model: Med, tokenizer: CaptionTokenizer, pairs: PairSet) -> None:
    """alpha grows linearly over the first ``alpha_ramp`` of the steps, then stays (BLIP, appendix)."""
    asked = []

    def itc(step: int) -> None:
        learner = Grounding(
            model,
            replace(SETTINGS, queue=16, alpha=0.4, alpha_ramp=0.5),
            Batches([PairSource(pairs, 1.0)], tokenizer, SETTINGS, max_tokens=20),
            "cpu",
        )
        assert learner.teacher is not None
        targets = learner.teacher.targets

        def noting(*given: Any) -> Any:
            asked.append(given[-1])
            return targets(*given)

        learner.teacher.targets = noting  # type: ignore[method-assign]
        learner(step)

    for step in (0, 1, 5, 9):
        itc(step)
    assert asked == pytest.approx([0.0, 0.08, 0.4, 0.4])


def test_a_model_that_shares_nothing_learns_in_both_halves(
    model: Med, tokenizer: CaptionTokenizer, pairs: PairSet
) -> None:
    torch.manual_seed(0)
    apart = Med(replace(model.config, shared=False))
    batches = Batches([PairSource(pairs, 1.0)], tokenizer, SETTINGS, max_tokens=20)
    learner = Grounding(apart, SETTINGS, batches, "cpu")
    learner(0)["loss"].backward()
    for half in (apart.text_encoder, apart.text_decoder.bert):
        gradient = half.encoder.layers()[0].crossattention.self.key.weight.grad
        assert gradient is not None
        assert gradient.abs().sum() > 0
