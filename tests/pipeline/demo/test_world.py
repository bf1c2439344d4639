from itertools import combinations
from random import Random

import pytest

from capfilt.pipeline.demo.drawing import code_points
from capfilt.pipeline.demo.world import COLOURS, FAMILIES, World


def test_a_seed_draws_one_world_and_another_seed_another() -> None:
    assert World.draw(3) == World.draw(3)
    assert set(World.draw(3).concepts) != set(World.draw(4).concepts)


@pytest.mark.parametrize("seed", range(20))
def test_no_two_things_of_a_world_share_a_word_or_a_family(seed: int) -> None:
    things = World.draw(seed, 144).concepts
    assert len(things) == 144
    for one, other in combinations(things, 2):
        assert not set(one.split()) & set(other.split())
    for family in FAMILIES:
        assert len(set(family) & set(things)) <= 1


def test_every_name_is_a_short_emoji_name_listed_once() -> None:
    names = [name for family in FAMILIES for name in family]
    assert len(names) == len(set(names))
    for name in names:
        assert code_points(name)
        assert len(name.split()) <= 3
        assert name.replace(" ", "").isalpha()
        assert not set(name.split()) & set(COLOURS)


def test_scenes_show_one_object_or_two_different_ones_with_a_relation() -> None:
    world, rng = World.draw(0), Random(0)
    scenes = [world.scene(rng) for _ in range(500)]
    assert {len(set(scene.objects)) for scene in scenes} == {1, 2}
    for scene in scenes:
        assert set(scene.objects) <= set(world.concepts)
        assert (scene.relation is not None) == (len(scene.objects) == 2)


def test_a_world_larger_than_the_names_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        World.draw(0, concepts=1000)
