"""Claims about the world to be confirmed or put right, and what the world does not contain.

Knows how a claim is asked and answered; half of the claims are wrong on purpose.
"""

from random import Random

from training.tales.facts import capital, named, person_slots, pronoun
from training.tales.names import CRAFTS, KINDS
from training.tales.world import Person, World, with_article

# Key of the claim: the question, the yes and the no, all with the claimed value in `{claim}`.
_CLAIMS = {
    "village": (
        ("Does {who} live in {claim}?", "Is {who} from {claim}?", "Is {claim} the home of {whom}?"),
        "Yes, {sub} lives in {truth}.",
        "No, {sub} lives in {truth}.",
    ),
    "craft": (
        ("Is {who} {claim}?", "Does {who} work as {claim}?"),
        "Yes, {sub} is {truth}.",
        "No, {sub} is {truth}.",
    ),
    "animal": (
        ("Does {who} have {claim}?", "Does {who} keep {claim}?", "Is {whose} pet {claim}?"),
        "Yes, {sub} keeps {truth} called {pet}.",
        "No, {sub} keeps {truth} called {pet}.",
    ),
    "friend": (
        ("Is {claim} {whose} friend?", "Is {who} friends with {claim}?", "Is {claim} {whose} best friend?"),
        "Yes, {own} best friend is {truth}.",
        "No, {own} best friend is {truth}.",
    ),
    "fear": (
        ("Is {who} afraid of {claim}?", "Does {who} fear {claim}?"),
        "Yes, {sub} is afraid of {truth}.",
        "No, {sub} is afraid of {truth}.",
    ),
    "food": (
        ("Does {who} like {claim} best?", "Is {claim} {whose} favourite food?"),
        "Yes, {sub} likes {truth} best of all.",
        "No, {sub} likes {truth} best of all.",
    ),
    "treasure": (
        ("Does {who} own {claim}?", "Is {whose} treasure {claim}?"),
        "Yes, {own} treasure is {truth}.",
        "No, {own} treasure is {truth}.",
    ),
}


def _value(p: Person, key: str) -> str:
    plain = {"village": p.village, "friend": p.friend, "fear": p.fear, "food": p.food}
    if key in plain:
        return plain[key]
    return with_article({"craft": p.craft, "animal": p.kind, "treasure": p.treasure}[key])


def _wrong(rng: Random, world: World, p: Person, key: str) -> str:
    if key == "craft":
        return with_article(rng.choice([c for c in CRAFTS if c != p.craft]))
    if key == "animal":
        return with_article(rng.choice([k for k in KINDS if k != p.kind]))
    others = {_value(q, key) for q in world.people if q is not p} - {_value(p, key), p.name}
    return rng.choice(sorted(others))


def claim(rng: Random, world: World, p: Person, by_name: bool = True) -> tuple[str, str]:
    """A claim about somebody, right or wrong, and the answer to it."""
    key = rng.choice(tuple(_CLAIMS))
    asks, yes, no = _CLAIMS[key]
    truth = _value(p, key)
    right = rng.random() < 0.5
    said = truth if right else _wrong(rng, world, p, key)
    call = named(p) if by_name else pronoun(p)
    words = {"claim": said, "truth": truth, "sub": call["who"], "own": call["whose"], "pet": p.pet}
    ask = rng.choice(asks).format(**call, **words)
    return capital(ask), (yes if right else no).format(**words)


def absent(rng: Random, world: World, p: Person) -> tuple[str, str]:
    """A question about kin that the person does not have, or the kin the person has."""
    slots = person_slots(world, p) | named(p)
    if not p.children:
        ask = rng.choice(
            ("Does {who} have children?", "Who are {whose} children?", "Has {who} any children?")
        )
        return ask.format(**slots), f"{p.name} has no children."
    if p.elder:
        ask = rng.choice(("Who is {whose} mother?", "Who is {whose} father?", "Who are {whose} parents?"))
        return ask.format(**slots), f"The tales do not say who the parents of {p.name} were."
    ask = rng.choice(
        ("Does {who} have a brother or a sister?", "Who is {whose} sister?", "Who is {whose} brother?")
    )
    return ask.format(**slots), f"{p.name} has no brother or sister."
