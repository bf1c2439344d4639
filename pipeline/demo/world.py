"""A small world of things that can be seen: concepts, background colours, scenes of one or two objects."""

from dataclasses import dataclass
from random import Random
from typing import Literal

Relation = Literal["left of", "above"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 64, 58),
    "orange": (244, 150, 46),
    "yellow": (250, 224, 84),
    "green": (86, 172, 92),
    "blue": (74, 132, 222),
    "purple": (146, 88, 184),
    "pink": (248, 164, 200),
    "white": (246, 246, 244),
}

# CLDR English names of emoji that show one concrete thing. A line holds things that look alike, mean alike or
# are easily mistaken at 64 pixels: a world takes at most one of a line.
_FAMILIES = """
cat, dog, poodle, guide dog
horse, zebra, donkey, carousel horse, camel, llama
cow, ox, water buffalo, bison
pig, boar
goat, ram, ewe
giraffe
elephant, mammoth, rhinoceros, hippopotamus
rat, mouse
rabbit
hedgehog
kangaroo
badger, skunk, raccoon
rooster, chicken, turkey
duck, swan, goose
eagle
owl
flamingo
peacock
parrot
penguin
bat
crocodile, lizard
turtle
snake
sauropod
whale
dolphin, shark, orca
fish, tropical fish
blowfish
octopus, jellyfish, squid
crab, lobster, scorpion
snail
butterfly
ant, spider, mosquito, fly
honeybee
lady beetle, beetle
deer
lion
tiger, leopard
gorilla, monkey, orangutan
sloth
otter, beaver
seal
unicorn
frog
panda
bouquet
rose, hibiscus
sunflower
tulip
potted plant
evergreen tree, deciduous tree
palm tree
cactus
shamrock
maple leaf
mushroom
feather
watermelon
lemon
tangerine, peach, tomato
banana
pineapple
pear
strawberry
coconut, potato
avocado
eggplant
carrot
hot pepper
cucumber
broccoli
croissant
pretzel
bagel
doughnut
cheese wedge
hamburger
pizza
hot dog
sandwich
taco
burrito
egg
rice ball
soft ice cream
cookie
birthday cake
shortcake
cupcake
chocolate bar
candy
lollipop
honey pot
baby bottle
teapot
wine glass
cocktail glass, tropical drink
beer mug
bubble tea
volcano
tent
house
castle
fountain
ferris wheel
locomotive
tram, bus, trolleybus, minibus
ambulance
fire engine, delivery truck
police car, taxi, automobile, racing car
tractor
motorcycle, motor scooter
bicycle
kick scooter
roller skate, ice skate
wheel
anchor
ring buoy
sailboat
canoe
airplane, small airplane
helicopter
rocket
flying saucer
satellite
parachute
watch
alarm clock
crescent moon
star
cloud
rainbow
umbrella
snowflake
snowman
fire
ringed planet
firecracker
balloon
wrapped gift
ribbon
trophy
soccer ball, volleyball, baseball
basketball
american football, rugby football
boxing glove
curling stone
kite
bullseye
crystal ball
joystick
game die
puzzle piece
teddy bear
artist palette
dress
bikini
handbag, purse
backpack
top hat
graduation cap
billed cap
crown
ring
gem stone
bell
microphone
headphone
radio
saxophone
accordion
guitar, banjo, violin
trumpet
drum
mobile phone
telephone
laptop
printer
floppy disk
abacus
movie camera, film projector
television
camera
candle
light bulb
flashlight
open book, newspaper
envelope
package
pencil, crayon, paintbrush, toothbrush
briefcase
pushpin
key, old key
hammer, axe, pick
dagger
bomb
boomerang
shield
carpentry saw
wrench
screwdriver
gear
ladder
balance scale
magnet
test tube
microscope
telescope
syringe
pill
stethoscope
door
mirror
bed
chair
toilet
plunger
shower
bathtub
razor
broom
basket
bucket
fire extinguisher
shopping cart
robot
ghost
skull
money bag
toolbox
treasure chest
oil drum
compass
hiking boot
running shoe
fuel pump
tooth
bone
"""
FAMILIES = tuple(tuple(line.split(", ")) for line in _FAMILIES.strip().splitlines())


@dataclass(frozen=True)
class Scene:
    """What an image shows. Two objects stand in reading order: the left or upper one first."""

    objects: tuple[str, ...]
    relation: Relation | None
    colour: str


@dataclass(frozen=True)
class World:
    """The concepts that scenes are made of."""

    concepts: tuple[str, ...]

    @classmethod
    def draw(cls, seed: int, concepts: int = 24) -> "World":
        """Draw a world in which no two things look alike or share a word ("hot dog", "dog")."""
        rng = Random(f"world {seed}")
        names: list[str] = []
        taken: set[str] = set()
        for family in rng.sample(FAMILIES, len(FAMILIES)):
            name = rng.choice(family)
            words = set(name.split())
            if not words & taken:
                names.append(name)
                taken |= words
        if len(names) < concepts:
            raise ValueError(f"a world has at most {len(names)} things, asked for {concepts}")
        return cls(tuple(names[:concepts]))

    def scene(self, rng: Random, single: float = 0.3) -> Scene:
        """One scene; a share of ``single`` shows one object."""
        colour = rng.choice(list(COLOURS))
        if rng.random() < single:
            return Scene((rng.choice(self.concepts),), None, colour)
        first, second = rng.sample(self.concepts, 2)
        return Scene((first, second), rng.choice(("left of", "above")), colour)
