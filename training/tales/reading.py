"""Made-up notes and tales given in the prompt, with questions that only reading them can answer.

Knows nothing of the world: its people are made of random syllables, so nothing here can be learnt by heart.
"""

from dataclasses import dataclass
from random import Random

from training.tales import names
from training.tales.facts import capital
from training.tales.world import with_article

_HEADS = names.words("b d f g h k l m n p r s t v w z br dr gr kr st tr sh th")
_VOWELS = names.words("a e i o u ai ea oo")
_TAILS = ("", "n", "l", "r", "m", "s", "k", "x", "nd")
_PLACE_TAILS = ("ton", "field", "ham", "dale", "port", "wood")


@dataclass(frozen=True, slots=True)
class Invented:
    """Somebody who exists only in one prompt."""

    name: str
    he: str
    his: str
    place: str
    craft: str
    kind: str
    pet: str
    treasure: str
    food: str
    fear: str


def invented_name(rng: Random) -> str:
    """A name of two syllables that belongs to nobody in the world."""
    while True:
        syllables = [rng.choice(_HEADS) + rng.choice(_VOWELS) for _ in range(2)]
        name = capital("".join(syllables) + rng.choice(_TAILS))
        if name not in names.WOMEN and name not in names.MEN:
            return name


def invented_place(rng: Random) -> str:
    """The name of a village that is not on the ring road."""
    return capital(
        rng.choice(_HEADS) + rng.choice(_VOWELS) + rng.choice(_TAILS[1:]) + rng.choice(_PLACE_TAILS)
    )


def invent(rng: Random) -> Invented:
    """Somebody new."""
    he, his = rng.choice((("he", "his"), ("she", "her")))
    return Invented(
        name=invented_name(rng),
        he=he,
        his=his,
        place=invented_place(rng),
        craft=rng.choice(tuple(names.CRAFTS)),
        kind=rng.choice(names.KINDS),
        pet=rng.choice((*names.PETS, invented_name(rng))),
        treasure=f"{rng.choice(names.LOOKS)} {rng.choice(names.THINGS)}",
        food=rng.choice(names.FOODS),
        fear=rng.choice(names.FEARS),
    )


# Key of the fact: how it is told, how it is asked, how it is answered.
_NOTES = {
    "place": (
        ("{name} lives in {place}.", "{name} comes from {place}."),
        ("Where does {name} live?", "In which village does {name} live?", "Where is {name}'s home?"),
        "{name} lives in {place}.",
    ),
    "craft": (
        ("{name} is {a_craft}.", "{name} works as {a_craft}."),
        ("What is {name}'s craft?", "What does {name} do?", "What work does {name} do?"),
        "{name} is {a_craft}.",
    ),
    "pet": (
        ("{name} has {a_kind} called {pet}.", "{name} keeps {a_kind}, and its name is {pet}."),
        (
            "What animal does {name} have?",
            "What is the name of {name}'s pet?",
            "Which animal does {name} keep?",
        ),
        "{name} keeps {a_kind} called {pet}.",
    ),
    "treasure": (
        ("{name} owns {a_treasure}.", "{name} has {a_treasure}."),
        ("What does {name} own?", "What is {name}'s treasure?", "What thing does {name} have?"),
        "{name} has {a_treasure}.",
    ),
    "owner": (
        ("{name} owns {a_treasure}.", "{name} has {a_treasure}."),
        ("Who owns {a_treasure}?", "Who has the {treasure}?", "Whose is the {treasure}?"),
        "The {treasure} belongs to {name}.",
    ),
    "food": (
        ("{name} likes {food}.", "{name} loves to eat {food}."),
        ("What does {name} like to eat?", "What food does {name} like?", "What is {name}'s favourite food?"),
        "{name} likes {food}.",
    ),
    "fear": (
        ("{name} is afraid of {fear}.", "{name} fears {fear}."),
        ("What is {name} afraid of?", "What does {name} fear?"),
        "{name} is afraid of {fear}.",
    ),
}
_TALE = (
    ("Once there was {a_craft} called {name}.", "There once lived {a_craft} named {name}."),
    (
        "{He} lived in {place} with {a_kind} called {pet}.",
        "{name} lived in {place}, and {his} {kind} was {pet}.",
    ),
    ("One day {name} found {a_treasure} on the road.", "One morning {he} found {a_treasure} near the house."),
    ("{He} put it in a bag and took some {food} along.", "{He} ate some {food} and thought about it."),
    ("{name} was afraid of {fear}, but {he} went on.", "{He} feared only {fear}."),
    ("In the end {name} kept it and was happy.", "So {name} went home to {place}."),
)
_TALE_KEYS = ("place", "craft", "pet", "treasure", "owner", "fear")


def _slots(p: Invented) -> dict[str, str]:
    return {
        "name": p.name,
        "he": p.he,
        "He": capital(p.he),
        "his": p.his,
        "place": p.place,
        "a_craft": with_article(p.craft),
        "kind": p.kind,
        "a_kind": with_article(p.kind),
        "pet": p.pet,
        "treasure": p.treasure,
        "a_treasure": with_article(p.treasure),
        "food": p.food,
        "fear": p.fear,
    }


def question(rng: Random, p: Invented, key: str) -> tuple[str, str]:
    """A question about somebody just read of, and its answer."""
    _, asks, answer = _NOTES[key]
    slots = _slots(p)
    return rng.choice(asks).format(**slots), answer.format(**slots)


def small_tale(rng: Random, p: Invented) -> str:
    """A tale about somebody invented."""
    return " ".join(rng.choice(event).format(**_slots(p)) for event in _TALE)


def passage(rng: Random, size: int) -> tuple[str, list[tuple[str, str]]]:
    """Text about `size` invented people, and every question about it in a random order."""
    tales = rng.random() < 0.5
    folk = [invent(rng) for _ in range(size)]
    questions = []
    lines = []
    owned = [p.treasure for p in folk]
    for p in folk:
        keys = list(_TALE_KEYS) if tales else rng.sample(list(_NOTES), rng.randint(1, 3))
        if tales:
            lines.append(small_tale(rng, p))
        else:
            told = dict.fromkeys("treasure" if key == "owner" else key for key in keys)
            lines.append(" ".join(rng.choice(_NOTES[key][0]).format(**_slots(p)) for key in told))
        if owned.count(p.treasure) > 1 and "owner" in keys:
            keys.remove("owner")
        questions += [question(rng, p, key) for key in keys]
    rng.shuffle(questions)
    return ("\n\n" if tales else "\n").join(lines), questions
