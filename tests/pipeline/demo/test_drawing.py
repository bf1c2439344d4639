from random import Random

import numpy as np
import pytest

from capfilt.pipeline.demo.drawing import draw, jpeg
from capfilt.pipeline.demo.world import COLOURS, FAMILIES, Relation, Scene, World


def test_the_same_scene_and_randomness_give_the_same_bytes() -> None:
    scene = Scene(("cat", "pizza"), "above", "blue")
    assert jpeg(draw(scene, Random(5))) == jpeg(draw(scene, Random(5)))
    assert jpeg(draw(scene, Random(5))) != jpeg(draw(scene, Random(6)))


@pytest.mark.parametrize("side", [64, 96])
def test_nothing_is_cut_off_at_the_edge(side: int) -> None:
    world, rng = World.draw(2), Random(2)
    for _ in range(200):
        pixels = np.asarray(draw(world.scene(rng), rng, side), np.int16)
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert abs(edge - np.median(edge, axis=0)).max() < 25


@pytest.mark.parametrize(("relation", "axis"), [("left of", 1), ("above", 0)])
def test_objects_stand_as_the_scene_says(relation: Relation, axis: int) -> None:
    rng = Random(0)
    for _ in range(50):
        pixels = np.asarray(draw(Scene(("tomato", "evergreen tree"), relation, "white"), rng), np.int16)
        reddish = np.argwhere(pixels[..., 0] - pixels[..., 1] > 80).mean(axis=0)
        greenish = np.argwhere(pixels[..., 1] - pixels[..., 0] > 40).mean(axis=0)
        apart = greenish - reddish
        assert apart[axis] > abs(apart[1 - axis])


def test_every_object_can_be_drawn_and_seen_on_every_colour() -> None:
    rng = Random(0)
    for colour in COLOURS:
        for family in FAMILIES:
            scene = Scene((rng.choice(family),), None, colour)
            pixels = np.asarray(draw(scene, rng), np.int16)
            unlike = abs(pixels - np.median(pixels[0], axis=0)).max(axis=2) > 60
            assert unlike.mean() > 0.01, scene
