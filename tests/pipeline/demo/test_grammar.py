from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.pipeline.demo.grammar import Verdict, say, say_part, truth
from capfilt.pipeline.demo.world import COLOURS, Scene, World

PAIR = Scene(("strawberry", "pizza"), "above", "blue")
BESIDE = Scene(("hot dog", "ice skate"), "left of", "red")
ONE = Scene(("umbrella",), None, "white")

worlds = st.integers(0, 50).map(World.draw)
randoms = st.integers(0, 2**32).map(Random)


@given(worlds, randoms, st.sampled_from([0.0, 0.5, 1.0]))
def test_every_sentence_about_a_scene_is_a_match(world: World, rng: Random, inverse: float) -> None:
    scene = world.scene(rng)
    assert truth(scene, say(scene, rng, inverse)) is Verdict.MATCH


@given(worlds, randoms)
def test_every_part_of_the_truth_is_partial(world: World, rng: Random) -> None:
    scene = world.scene(rng)
    assert truth(scene, say_part(scene, rng)) is Verdict.PARTIAL


@given(worlds, randoms)
def test_a_sentence_matches_no_other_scene(world: World, rng: Random) -> None:
    scene, other = world.scene(rng), world.scene(rng)
    assert (truth(other, say(scene, rng, 0.5)) is Verdict.MATCH) == (scene == other)


@given(st.text(max_size=60))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert truth(PAIR, text) in Verdict


words = st.sampled_from(
    [
        "a",
        "an",
        "the",
        "strawberry",
        "pizza",
        "on",
        "and",
        "with",
        "of",
        "left",
        "above",
        "blue",
        "background",
    ]
)


@given(st.lists(words))
def test_any_word_salad_gets_a_verdict(salad: list[str]) -> None:
    assert truth(PAIR, " ".join(salad)) in Verdict


@pytest.mark.parametrize(
    ("scene", "text", "verdict"),
    [
        (PAIR, "a strawberry above a pizza on a blue background", Verdict.MATCH),
        (PAIR, "A picture of a strawberry above an pizza, on the blue background.", Verdict.MATCH),
        (PAIR, "a pizza below a strawberry on a blue background", Verdict.MATCH),
        (BESIDE, "there is an ice skate to the right of a hot dog on a red background", Verdict.MATCH),
        (BESIDE, "a red background with a hot dog left of an ice skate", Verdict.MATCH),
        (ONE, "on a white background there is a single umbrella", Verdict.MATCH),
        (ONE, "an umbrella", Verdict.PARTIAL),
        (ONE, "a white background", Verdict.PARTIAL),
        (PAIR, "a pizza on a blue background", Verdict.PARTIAL),
        (PAIR, "a pizza and a strawberry on a blue background", Verdict.PARTIAL),
        (PAIR, "a strawberry above a pizza", Verdict.PARTIAL),
        (PAIR, "a single pizza on a blue background", Verdict.WRONG_OBJECT),
        (PAIR, "a strawberry above a strawberry on a blue background", Verdict.WRONG_OBJECT),
        (PAIR, "a strawberry above a hot pizza on a blue background", Verdict.WRONG_OBJECT),
        (BESIDE, "a dog left of an ice skate on a red background", Verdict.WRONG_OBJECT),
        (ONE, "an umbrella above a pizza on a white background", Verdict.WRONG_OBJECT),
        (PAIR, "a strawberry above a pizza on a light blue background", Verdict.WRONG_COLOUR),
        (PAIR, "a pizza on a green background", Verdict.WRONG_COLOUR),
        (PAIR, "a red background", Verdict.WRONG_COLOUR),
        (PAIR, "a pizza above a strawberry on a blue background", Verdict.WRONG_RELATION),
        (PAIR, "a strawberry left of a pizza on a blue background", Verdict.WRONG_RELATION),
        (PAIR, "a strawberry below a pizza", Verdict.WRONG_RELATION),
        (PAIR, "strawberry pizza", Verdict.UNPARSABLE),
        (PAIR, "a strawberry above a pizza on a blue", Verdict.UNPARSABLE),
        (PAIR, "a strawberry above above a pizza on a blue background", Verdict.UNPARSABLE),
        (PAIR, "a strawberry above a pizza on a blue background on a blue background", Verdict.UNPARSABLE),
        (PAIR, "", Verdict.UNPARSABLE),
        (PAIR, "IMG_1234.jpg", Verdict.UNPARSABLE),
        (PAIR, "free shipping", Verdict.UNPARSABLE),
    ],
)
def test_verdicts(scene: Scene, text: str, verdict: Verdict) -> None:
    assert truth(scene, text) is verdict


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_can_be_said_and_told_from_the_others(colour: str) -> None:
    text = say(Scene(("cat",), None, colour), Random(0))
    right = [other for other in COLOURS if truth(Scene(("cat",), None, other), text) is Verdict.MATCH]
    assert right == [colour]
