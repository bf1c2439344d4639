from collections import Counter
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from capfilt.models.text.edits import EditKind, Edits
from capfilt.models.text.normalise import normalise_caption
from capfilt.pipeline.demo.grammar import Verdict, say, say_part, truth
from capfilt.pipeline.demo.world import World

CAPTIONS = [
    "a brown dog left of an orange cat",
    "a small bird to the right of a big umbrella",
    "a man riding a horse",
    "an hour glass on a table",
    "a spoon under the table",
    "two dogs in front of a house",
    "three apples behind a red box",
    "a dog runs under a tree",
    "a cat and a bird near a lamp",
    "a strawberry above a pizza on a blue background",
    "a green field with a white horse",
]
EDITS = Edits.of(CAPTIONS)


def every(text: str, kind: EditKind, *others: str, edits: Edits = EDITS) -> set[str]:
    """All that 200 draws give."""
    found = (edits.edit(text, kind, Random(seed), {text, *others}) for seed in range(200))
    return {edited for edited in found if edited is not None}


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("a pizza above a spoon", {"a spoon above a pizza", "a pizza under a spoon"}),
        (
            "a pizza left of a spoon",
            {"a spoon left of a pizza", "a pizza right of a spoon", "a pizza to the right of a spoon"},
        ),
        ("a man riding a horse", {"a horse riding a man"}),
        ("a cat is sitting on a box", {"a box is sitting on a cat", "a cat is sitting under a box"}),
        ("a dog behind an old man", {"an old man behind a dog", "a dog in front of an old man"}),
        ("a spoon on a white background", set()),
        ("a pizza and a spoon", set()),
        ("a pizza next to a spoon", set()),
        ("a pizza with a spoon", set()),
        ("a pizza near a spoon", set()),
        ("a dog left in a hurry", set()),
        ("a dog above a dog", set()),
        ("free shipping", set()),
        ("", set()),
    ],
)  # fmt: skip
def test_relations(text: str, edited: set[str]) -> None:
    edits = Edits.of([*CAPTIONS, "a bird right of a tree"])
    assert every(text, EditKind.RELATION, edits=edits) == edited


def test_an_opposite_that_no_caption_says_is_not_said() -> None:
    edits = Edits.of(["a cat left of a dog"])
    assert every("a cat left of a dog", EditKind.RELATION, edits=edits) == {"a dog left of a cat"}


def test_opposites_come_as_often_as_the_captions_say_them() -> None:
    edits = Edits.of([*["a cat above a dog"] * 9, "a cat below a dog"])
    drawn = Counter(
        edits.edit("a cup above a jar", EditKind.RELATION, Random(seed), ()) for seed in range(1000)
    )
    assert drawn.keys() == {"a jar above a cup", "a cup below a jar"}
    assert 50 < drawn["a cup below a jar"] < 150


def test_what_another_text_of_the_image_says_the_other_way_round_is_not_said() -> None:
    """Two people may look at an image from two sides."""
    assert not every("a cup left of a jar", EditKind.RELATION, "a white cup to the right of a jar")
    assert not every("a cup above a jar", EditKind.RELATION, "a jar is on top of a cup")
    assert every("a cup above a jar", EditKind.RELATION, "a cup left of a jar")


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("a red box", {"a brown box", "an orange box", "a white box", "a blue box", "a green box"}),
        ("a small cup", {"a big cup"}),
        ("two cups", {"three cups"}),
        ("a huge cup", set()),  # no caption says tiny
        ("an orange", set()),
        ("a cup", set()),
    ],
)
def test_attributes(text: str, edited: set[str]) -> None:
    assert every(text, EditKind.ATTRIBUTE) == edited


def test_no_colour_that_the_image_has_and_none_that_may_be_called_the_same() -> None:
    found = every("a red box", EditKind.ATTRIBUTE, "a tan and white box", "a blue box")
    assert found == {"an orange box", "a green box"}


def test_objects_are_what_the_captions_name_after_an_article() -> None:
    found = every("a cup", EditKind.OBJECT)
    assert {"a dog", "a cat", "an umbrella", "a table", "an hour glass", "a tree", "a strawberry"} <= found
    assert not {"a background", "a dog runs", "a dogs", "a riding", "a brown dog", "a field"} & (
        found - {"a field"}
    )


def test_an_object_keeps_its_number() -> None:
    assert every("two cups", EditKind.OBJECT) == {"two dogs", "two apples"}


def test_no_object_that_the_image_has_nor_one_that_it_may_be_called() -> None:
    edits = Edits.of(["a guide dog", "a dog", "a dogs", "a woman", "a man", "a ball"])
    assert every("a guide dog", EditKind.OBJECT, edits=edits) == {"a woman", "a man", "a ball"}
    assert every("a man", EditKind.OBJECT, "two balls", edits=edits) == {"a guide dog", "a dog", "a dogs"}


def test_objects_come_as_often_as_the_captions_name_them() -> None:
    edits = Edits.of([*["a dog"] * 9, "a cat"])
    drawn = Counter(edits.edit("a cup", EditKind.OBJECT, Random(seed), ()) for seed in range(1000))
    assert 50 < drawn["a cat"] < 150
    assert drawn["a dog"] == 1000 - drawn["a cat"]


def test_articles_agree() -> None:
    edits = Edits.of(["a cat left of a unicorn", "an orange cup", "an owl"])
    assert "an orange cat" in every("a red cat", EditKind.ATTRIBUTE, edits=edits)
    assert every("an owl", EditKind.OBJECT, edits=edits) == {"a cat", "a unicorn", "a cup"}


def test_punctuation_stays() -> None:
    assert every("a cup, above a jar", EditKind.OBJECT)
    assert "a dog, a man's hat and two-tone jar" in every(
        "a cup, a man's hat and two-tone jar", EditKind.OBJECT
    )
    assert "a dog , near a jar ?" in every("a cup , near a jar ?", EditKind.OBJECT)


def test_a_verb_is_no_part_of_a_noun() -> None:
    edits = Edits.of(["a dog jumps", "two dogs play in a park", "a dog", "the dogs", "the jumps", "a dog"])
    assert every("a cup", EditKind.OBJECT, edits=edits) == {"a dog", "a park"}
    assert every("two cups", EditKind.OBJECT, edits=edits) >= {"two dogs"}
    assert "a cup jumps" in every("a dog jumps", EditKind.OBJECT, edits=Edits.of(["a dog", "a cup"]))


sentences = st.lists(
    st.sampled_from([*" ".join(CAPTIONS).split(), "is", ",", "orange", "sitting", "the", "two"]),
    max_size=14,
).map(" ".join)  # fmt: skip
kinds = st.sampled_from(list(EditKind))


@given(
    st.lists(sentences, max_size=8),
    sentences,
    st.lists(sentences, max_size=2),
    kinds,
    st.integers(0, 99),
    st.randoms(),
)
def test_any_words_at_all(texts, text, others, kind, seed, shuffled) -> None:  # fmt: skip
    first = Edits.of(texts).edit(text, kind, Random(seed), others)
    shuffled.shuffle(texts)
    assert Edits.of(texts).edit(text, kind, Random(seed), others) == first
    assert first is None or (first not in {text, *others} and first == normalise_caption(first))


@given(st.text(max_size=80), kinds, st.integers(0, 9))
def test_any_text_at_all(text, kind, seed) -> None:
    reading = normalise_caption(text)
    assert Edits.of([*CAPTIONS, reading]).edit(reading, kind, Random(seed), ()) != reading


@settings(max_examples=300)
@given(st.integers(0, 20), st.integers(0, 2**32), kinds, st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_no_edit_of_a_true_sentence_is_true(number, seed, kind, inverse, part) -> None:
    """The demo's grammar, which knows what a scene shows, is the judge."""
    rng = Random(seed)
    world = World.draw(number)
    edits = Edits.of(say(world.scene(rng), rng, inverse) for _ in range(60))
    scene = world.scene(rng)
    full = say(scene, rng, inverse)
    text = say_part(scene, rng) if part else full
    edited = edits.edit(text, kind, rng, {text, full})
    assume(edited is not None)
    assert truth(scene, edited) not in (Verdict.MATCH, Verdict.PARTIAL)


@pytest.mark.parametrize("kind", EditKind)
def test_every_full_sentence_of_the_demo_has_an_edit(kind: EditKind) -> None:
    rng = Random(0)
    world = World.draw(3)
    scenes = [world.scene(rng, single=0.0) for _ in range(200)]
    texts = [say(scene, rng, 0.5) for scene in scenes]
    edits = Edits.of(texts)
    edited = [edits.edit(text, kind, rng, {text}) for text in texts]
    assert None not in edited
    verdicts = {truth(scene, text) for scene, text in zip(scenes, edited, strict=True)}
    assert verdicts == {Verdict[f"WRONG_{'COLOUR' if kind is EditKind.ATTRIBUTE else kind.name}"]}


@pytest.mark.parametrize(
    ("text", "unsaid"),
    [
        ("there is a jar below a red cup", []),  # the same, in other words
        ("a cup", []),
        ("a red cup above a jar on a table", ["table", "a jar on a table"]),
        ("a blue cup", ["blue"]),
        ("two cups", ["two"]),
        ("a jar above a cup", ["a jar above a cup"]),
        ("a picture of a thing", []),
    ],
)
def test_what_a_text_says_and_others_do_not(text: str, unsaid: list[str]) -> None:
    assert EDITS.unsaid(text, ["a red cup above a jar", "a cup"]) == unsaid


def test_people_may_be_called_otherwise() -> None:
    assert EDITS.unsaid("a woman", ["a person with a dog"]) == []
    assert EDITS.unsaid("a woman", ["a dog"]) == ["woman"]
