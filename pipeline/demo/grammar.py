"""Scenes in English: what can be written about one, and whether a text about one is true.

A sentence names one or two objects, how they stand to each other, and the background. *True* without
qualification means a full match: every object, the relation and the colour are stated and hold. A sentence
whose claims all hold but which leaves something out is *partial*, counted apart; everything else is noise.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from capfilt.pipeline.demo.world import Relation, Scene


class Verdict(StrEnum):
    """What a text is worth as a caption of a scene. With several faults the first in this order is named."""

    MATCH = "match"
    PARTIAL = "partial"
    WRONG_OBJECT = "wrong_object"
    WRONG_COLOUR = "wrong_colour"
    WRONG_RELATION = "wrong_relation"
    UNPARSABLE = "unparsable"


_INVERSE = {"left of": "right of", "above": "below"}
_FRAMES = (
    "{things} on {background}",
    "there is {things} on {background}",
    "{background} with {things}",
    "on {background} there is {things}",
)
_FRAMES_WITHOUT_BACKGROUND = ("{things}", "there is {things}")


def say(scene: Scene, rng: Random, inverse: float = 0.0) -> str:
    """A sentence that says all there is to see; a share ``inverse`` says "B right of A" for "A left of B"."""
    things = _with_article(scene.objects[0])
    if scene.relation:
        things = _related(scene.objects, scene.relation, rng.random() < inverse)
    elif rng.random() < 0.25:
        things = f"a single {scene.objects[0]}"
    return _framed(things, scene.colour, rng)


def say_part(scene: Scene, rng: Random) -> str:
    """A true sentence that leaves out an object, the relation or the background."""
    if scene.relation is None:
        return _framed(_with_article(scene.objects[0]), None, rng)
    left_out = rng.choice(("object", "relation", "background"))
    if left_out == "object":
        return _framed(_with_article(rng.choice(scene.objects)), scene.colour, rng)
    if left_out == "relation":
        return _framed(" and ".join(map(_with_article, scene.objects)), scene.colour, rng)
    return _framed(_related(scene.objects, scene.relation, inverted=False), None, rng)


def truth(scene: Scene, text: str) -> Verdict:
    """Judge any text about ``scene``."""
    said = _parse(text)
    if said is None:
        return Verdict.UNPARSABLE
    invented = not set(said.objects) <= set(scene.objects) or len(set(said.objects)) < len(said.objects)
    if invented or (said.alone and len(scene.objects) > 1):
        return Verdict.WRONG_OBJECT
    if said.colour not in (None, scene.colour):
        return Verdict.WRONG_COLOUR
    if said.relation and (said.objects, said.relation) != (scene.objects, scene.relation):
        return Verdict.WRONG_RELATION
    everything = (len(scene.objects), scene.relation, scene.colour)
    return Verdict.MATCH if (len(said.objects), said.relation, said.colour) == everything else Verdict.PARTIAL


def objects_named(text: str) -> tuple[str, ...]:
    """The objects that a sentence names; none if it is no sentence about an image."""
    said = _parse(text)
    return said.objects if said else ()


@dataclass(frozen=True)
class _Said:
    """The claims of a sentence, in reading order: the left or upper object first."""

    objects: tuple[str, ...]
    relation: Relation | None
    colour: str | None
    alone: bool = False


_RESERVED = "a|an|the|single|and|with|on|of|to|left|right|above|below|there|is|are|background"
_NAME = rf"(?!(?:{_RESERVED})\b)\w+(?: (?!(?:{_RESERVED})\b)\w+){{0,2}}"
_BACKGROUND = rf"(?:a|an|the) (?P<colour>{_NAME}) background"
_OPENING = re.compile(r"^(?:an? (?:picture|photo|image) of )?(?:there (?:is|are) )?")
_WITH_BACKGROUND = (
    re.compile(rf"(?P<things>.+) on {_BACKGROUND}"),
    re.compile(rf"{_BACKGROUND}(?: with (?P<things>.+))?"),
    re.compile(rf"on {_BACKGROUND}(?: (?:there (?:is|are) )?(?P<things>.+))?"),
)
_LINK = r"(?P<link>and|above|below|(?:to the )?(?:left|right) of)"
_THINGS = re.compile(
    rf"(?:a|an|the) (?P<single>single )?(?P<first>{_NAME})(?: {_LINK} (?:a|an|the) (?P<second>{_NAME}))?"
)


def _parse(text: str) -> _Said | None:
    rest = _OPENING.sub("", " ".join(re.findall(r"\w+", text.lower())))
    matches = (pattern.fullmatch(rest) for pattern in _WITH_BACKGROUND)
    framed = next((match for match in matches if match), None)
    colour = framed["colour"] if framed else None
    if framed and framed["things"] is None:
        return _Said((), None, colour)
    named = _THINGS.fullmatch(framed["things"] if framed else rest)
    if named is None:
        return None
    first, second = named["first"], named["second"]
    match named["link"] and named["link"].removeprefix("to the "):
        case None:
            return _Said((first,), None, colour, alone=named["single"] is not None)
        case "left of" | "above" as relation:
            return _Said((first, second), relation, colour)
        case "right of":
            return _Said((second, first), "left of", colour)
        case "below":
            return _Said((second, first), "above", colour)
    return _Said((first, second), None, colour)


def _framed(things: str, colour: str | None, rng: Random) -> str:
    if colour is None:
        return rng.choice(_FRAMES_WITHOUT_BACKGROUND).format(things=things)
    return rng.choice(_FRAMES).format(things=things, background=f"{_with_article(colour)} background")


def _related(objects: tuple[str, ...], relation: Relation, inverted: bool) -> str:
    first, second = map(_with_article, objects)
    return f"{second} {_INVERSE[relation]} {first}" if inverted else f"{first} {relation} {second}"


def _with_article(noun: str) -> str:
    vowel = noun[0] in "aeiou" and not noun.startswith("uni")  # a unicorn
    return f"{'an' if vowel else 'a'} {noun}"
