from collections import Counter
from random import Random

import pytest

from capfilt.pipeline.demo.grammar import Verdict, truth
from capfilt.pipeline.demo.noise import MIX, draw_kinds, web_text
from capfilt.pipeline.demo.world import World

NOT_TRUE_BUT_PARSABLE = {Verdict.WRONG_OBJECT, Verdict.WRONG_COLOUR, Verdict.WRONG_RELATION}


@pytest.mark.parametrize("count", [0, 1, 7, 6000])
def test_kinds_come_in_their_proportions(count: int) -> None:
    kinds = Counter(draw_kinds(count, Random(0)))
    assert kinds.total() == count
    for kind, share in MIX.items():
        assert kinds[kind] == pytest.approx(share * count, abs=2.5)


@pytest.mark.parametrize(
    ("kind", "verdicts"),
    [
        ("match", {Verdict.MATCH}),
        ("partial", {Verdict.PARTIAL}),
        ("swap", NOT_TRUE_BUT_PARSABLE),
        ("hard", NOT_TRUE_BUT_PARSABLE),
        ("boilerplate", {Verdict.UNPARSABLE}),
    ],
)
def test_a_text_is_as_true_as_its_kind_says(kind: str, verdicts: set[Verdict]) -> None:
    world, rng = World.draw(1), Random(1)
    scenes = [world.scene(rng) for _ in range(300)]
    found = {truth(scene, web_text(kind, scene, world, rng, inverse=0.3)) for scene in scenes}
    assert found <= verdicts


def test_hard_noise_gets_each_claim_wrong_in_turn() -> None:
    world, rng = World.draw(1), Random(1)
    scenes = [world.scene(rng) for _ in range(300)]
    found = Counter(truth(scene, web_text("hard", scene, world, rng)) for scene in scenes)
    assert min(found[verdict] for verdict in NOT_TRUE_BUT_PARSABLE) > 50
