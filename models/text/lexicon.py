"""The closed classes of English that caption editing needs: what bounds a noun phrase, what has an opposite.

Objects are not here: they are the vocabulary of the captions themselves.
"""

from typing import NamedTuple


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DETERMINERS = ARTICLES | _words("the his her their its my our your some several many another") | set(NUMBERS)

# What ends a noun phrase. Verbs are an open class: only the ones without an ending that shows it.
BOUNDS = DETERMINERS | _words(
    """
    about above across after against ahead along alongside amid among and around as at atop away back before
    behind below beneath beside besides between beyond both but by can could do does down during each either
    for from had has have he him how in inside into is it left near nearby next nor not of off on onto opposite or
    out outside over past right she so than that them then there these they this those through to together toward
    towards under underneath up upon was we were what when where which while who whom whose will with within
    without would be been being are am also both every all any no very just only one us you i
    sits stands lies lays hangs rests holds wears looks walks runs rides eats plays
    sitting standing lying laying hanging resting placed seen shown
    """
)
# Words in -ing that are nouns, wherever they stand; any other ends the phrase unless it begins it.
ING_NOUNS = _words(
    "building ceiling clothing painting wedding king ring string wing thing evening morning railing crossing "
    "landing pudding spring swing duckling dumpling earring parking dressing awning icing frosting bedding"
)
# Nouns that say how or where something is shown, not what: they are neither replaced nor moved.
PICTORIAL = _words(
    """
    background foreground backdrop picture photo photograph image view scene shot close-up closeup drawing
    top bottom front back side middle center centre corner edge end rear distance
    group pair couple bunch row line pile stack lot piece set number kind type variety part
    day night time way air
    """
)
# Replacing one of these by another may leave the text true.
PEOPLE = _words(
    """
    man men woman women person people boy boys girl girls child children kid kids guy guys lady ladies adult
    adults baby toddler player players rider riders someone crowd family gentleman skier surfer skateboarder
    snowboarder pedestrian worker player's friend friends mother father couple teenager student students
    """
)
GENERIC = _words(
    "animal animals thing things object objects item items food vehicle vehicles something stuff"
)

# One line holds names of colours that may be said of the same thing.
_COLOUR_FAMILIES = """
black
white cream
red maroon crimson scarlet
orange
yellow gold golden
green olive lime
blue navy turquoise teal cyan
purple violet lavender
pink magenta
brown tan beige
gray grey silver
"""
COLOURS = {
    colour: number for number, line in enumerate(_COLOUR_FAMILIES.split("\n")) for colour in line.split()
}
_OPPOSED = (
    *("big small", "large small", "little big", "little large", "huge tiny", "tall short", "long short"),
    *("young old", "new old", "open closed", "empty full", "wet dry", "clean dirty"),
)
OPPOSITES = {
    word: tuple(other for pair in _OPPOSED if word in pair.split() for other in pair.split() if other != word)
    for word in " ".join(_OPPOSED).split()
}
ADJECTIVES = COLOURS.keys() | OPPOSITES.keys() | set(NUMBERS) | {"single", "light", "dark", "bright"}


class Relation(NamedTuple):
    """How two things stand to each other. On the same ``axis`` the other direction is the opposite:
    "A above B" and "B below A" say the same. ``forward`` is null where there is no opposite.
    """

    axis: str
    forward: bool | None


def _relations() -> dict[tuple[str, ...], Relation]:
    axes = {
        "left": (
            ["left of", "to the left of", "on the left of", "on the left side of", "at the left of"],
            ["right of", "to the right of", "on the right of", "on the right side of", "at the right of"],
        ),
        "above": (["above", "over", "on", "on top of", "atop"], ["below", "under", "beneath", "underneath"]),
        "front": (["in front of", "ahead of"], ["behind"]),
    }
    table = {
        tuple(text.split()): Relation(axis, forward)
        for axis, sides in axes.items()
        for forward, texts in zip((True, False), sides, strict=True)
        for text in texts
    }
    # "A inside B" is not "B outside A", but each is false where the other is true
    table |= {("inside",): Relation("inside", None), ("outside",): Relation("outside", None)}
    table |= {("in",): Relation("inside", None), ("into",): Relation("into", None)}
    verbs = "riding holding wearing carrying chasing pulling pushing eating feeding throwing"
    return table | {(verb,): Relation(verb, None) for verb in verbs.split()}


# Only directional ones: around `and`, `with`, `near` or `next to` two things may change places.
RELATIONS = _relations()
