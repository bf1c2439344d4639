"""What the web says about an image: the truth, part of it, or one of several kinds of noise."""

from random import Random

from capfilt.pipeline.demo.grammar import Verdict, say, say_part, truth
from capfilt.pipeline.demo.world import COLOURS, Scene, World

# The share of each kind of web text; what is left over by rounding matches.
MIX = {"partial": 0.12, "swap": 0.25, "hard": 0.15, "boilerplate": 0.15, "match": 0.33}

_BOILERPLATE = (
    "IMG_{n}.jpg",
    "DSC{n}",
    "image {n}",
    "stock photo {n}",
    "free shipping",
    "free shipping on orders over {n}",
    "click to enlarge",
    "buy now and save {n} percent",
    "best price guaranteed",
    "photo by admin",
    "home page banner",
    "untitled",
    "thumbnail {n}",
    "sign up for our newsletter",
)


def draw_kinds(count: int, rng: Random) -> list[str]:
    """A kind for each of ``count`` texts, exactly in the proportions of :data:`MIX`."""
    kinds = [kind for kind, share in MIX.items() for _ in range(round(share * count))][:count]
    kinds += ["match"] * (count - len(kinds))
    rng.shuffle(kinds)
    return kinds


def web_text(kind: str, scene: Scene, world: World, rng: Random, inverse: float = 0.0) -> str:
    """A text of this kind for ``scene``."""
    match kind:
        case "match":
            return say(scene, rng, inverse)
        case "partial":
            return say_part(scene, rng)
        case "hard":
            return say(_altered(scene, world, rng), rng, inverse)
        case "boilerplate":
            return rng.choice(_BOILERPLATE).format(n=rng.randint(10, 9999))
    while True:  # swapped: the text of another image, one that does not happen to hold here as well
        text = say(world.scene(rng), rng, inverse)
        if truth(scene, text) not in (Verdict.MATCH, Verdict.PARTIAL):
            return text


def _altered(scene: Scene, world: World, rng: Random) -> Scene:
    """The same scene with one object, the colour or the relation wrong."""
    objects, relation, colour = scene.objects, scene.relation, scene.colour
    match rng.choice(("object", "colour", "relation") if relation else ("object", "colour")):
        case "object":
            changed = list(objects)
            others = [name for name in world.concepts if name not in objects]
            changed[rng.randrange(len(changed))] = rng.choice(others)
            objects = tuple(changed)
        case "colour":
            colour = rng.choice([name for name in COLOURS if name != colour])
        case "relation":
            if rng.random() < 0.5:
                objects = objects[::-1]
            else:
                relation = "above" if relation == "left of" else "left of"
    return Scene(objects, relation, colour)
