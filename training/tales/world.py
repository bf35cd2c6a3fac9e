"""The fixed little world: who lives where, does what, owns what and is kin to whom.

Knows the facts, dealt out from one seed, and nothing about wording. Equal seeds give equal worlds.
"""

from dataclasses import dataclass
from random import Random

from training.tales import names

WORLD_SEED = 7
FAMILY_SIZE = 4


def with_article(noun: str) -> str:
    """The noun with the article that its first letter asks for."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


@dataclass(frozen=True, slots=True)
class Village:
    """A village on the ring road and what can be said about it."""

    name: str
    setting: str
    landmark: str
    goods: str
    feast: str
    season: str


@dataclass(frozen=True, slots=True)
class Legend:
    """The one great journey of a person: what was sought, where it was found, and how."""

    item: str
    target: str
    spot: str
    helper: str
    obstacle: str
    way: str


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody of the world; kin and friend are given by name."""

    name: str
    woman: bool
    village: str
    craft: str
    kind: str
    pet: str
    treasure: str
    hideout: str
    food: str
    fear: str
    friend: str
    elder: bool
    parent: str | None
    children: tuple[str, ...]
    sibling: str | None
    legend: Legend

    @property
    def he(self) -> str:
        """The pronoun as a subject."""
        return "she" if self.woman else "he"

    @property
    def him(self) -> str:
        """The pronoun as an object."""
        return "her" if self.woman else "him"

    @property
    def his(self) -> str:
        """The pronoun as an owner."""
        return "her" if self.woman else "his"


@dataclass(frozen=True, slots=True)
class World:
    """Every village in the order of the ring road, and every person."""

    villages: tuple[Village, ...]
    people: tuple[Person, ...]

    def person(self, name: str) -> Person:
        """The person of that name."""
        return next(p for p in self.people if p.name == name)

    def village(self, name: str) -> Village:
        """The village of that name."""
        return next(v for v in self.villages if v.name == name)

    def folk(self, village: str) -> tuple[Person, ...]:
        """Everyone who lives in a village."""
        return tuple(p for p in self.people if p.village == village)

    def next_village(self, name: str, step: int = 1) -> Village:
        """The village that many stops further along the ring road."""
        ring = [v.name for v in self.villages]
        return self.villages[(ring.index(name) + step) % len(ring)]

    def road(self, start: str, goal: str) -> tuple[str, ...]:
        """The villages met on the shorter way round, the goal last; forward when both are equal."""
        size = len(self.villages)
        ring = [v.name for v in self.villages]
        ahead = (ring.index(goal) - ring.index(start)) % size
        step = 1 if ahead * 2 <= size else -1
        stops = ahead if step == 1 else size - ahead
        return tuple(self.next_village(start, step * i).name for i in range(1, stops + 1))


def shuffled(rng: Random, words: list[str] | tuple[str, ...], count: int) -> list[str]:
    """`count` words in a random order, each used equally often as far as that goes."""
    pool = (list(words) * (count // len(words) + 1))[:count]
    rng.shuffle(pool)
    return pool


def build_world(seed: int = WORLD_SEED) -> World:
    """The whole world of a seed."""
    rng = Random(seed)
    villages = _villages(rng)
    return World(villages, _people(rng, [v.name for v in villages]))


def _villages(rng: Random) -> tuple[Village, ...]:
    ring = list(names.VILLAGES)
    rng.shuffle(ring)
    count = len(ring)
    feasts = shuffled(rng, names.FEASTS, count)
    seasons = shuffled(rng, names.SEASONS, count)
    return tuple(Village(n, *names.VILLAGES[n], f, s) for n, f, s in zip(ring, feasts, seasons, strict=True))


def _people(rng: Random, villages: list[str]) -> tuple[Person, ...]:
    women = set(names.WOMEN)
    roll = shuffled(rng, names.WOMEN + names.MEN, len(villages) * FAMILY_SIZE)
    count = len(roll)
    friend = _friends(rng, roll)
    deal = {
        "craft": shuffled(rng, tuple(names.CRAFTS), count),
        "kind": shuffled(rng, names.KINDS, count),
        "pet": shuffled(rng, names.PETS, count),
        "treasure": _treasures(rng, count),
        "hideout": shuffled(rng, names.HIDEOUTS, count),
        "food": shuffled(rng, names.FOODS, count),
        "fear": shuffled(rng, names.FEARS, count),
    }
    items = shuffled(rng, [f"{a} {b}" for a in names.QUEST_FIRST for b in names.QUEST_SECOND], count)
    people = []
    for i, name in enumerate(roll):
        village = villages[i // FAMILY_SIZE]
        people.append(
            Person(
                name=name,
                woman=name in women,
                village=village,
                friend=friend[name],
                legend=_legend(rng, items[i], [v for v in villages if v != village]),
                **_kin(roll, i),
                **{key: column[i] for key, column in deal.items()},
            )
        )
    return tuple(people)


def _friends(rng: Random, roll: list[str]) -> dict[str, str]:
    """Friends come in pairs from two different villages: the first half is paired with the second."""
    half = len(roll) // 2
    other = roll[half:]
    rng.shuffle(other)
    pairs = list(zip(roll[:half], other, strict=True))
    return dict(pairs) | {b: a for a, b in pairs}


def _treasures(rng: Random, count: int) -> list[str]:
    looks = shuffled(rng, names.LOOKS, count)
    things = shuffled(rng, names.THINGS, count)
    return [f"{look} {thing}" for look, thing in zip(looks, things, strict=True)]


def _kin(roll: list[str], i: int) -> dict:
    """A family of four: an elder, the elder's child, and that one's two children."""
    elder, middle, first, second = roll[i - i % FAMILY_SIZE :][:FAMILY_SIZE]
    return (
        {"elder": True, "parent": None, "children": (middle,), "sibling": None},
        {"elder": False, "parent": elder, "children": (first, second), "sibling": None},
        {"elder": False, "parent": middle, "children": (), "sibling": second},
        {"elder": False, "parent": middle, "children": (), "sibling": first},
    )[i % FAMILY_SIZE]


def _legend(rng: Random, item: str, targets: list[str]) -> Legend:
    return Legend(
        item=item,
        target=rng.choice(targets),
        spot=rng.choice(names.SPOTS),
        helper=rng.choice(names.KINDS),
        obstacle=rng.choice(names.OBSTACLES),
        way=rng.choice(names.WAYS),
    )
