"""Conversations: which questions follow one another, and in what manner they are asked.

Knows how turns are strung together. Takes its facts, tales and passages from the other modules.
"""

from collections.abc import Callable
from random import Random

from training.tales import checks, facts, reading, smalltalk, stories
from training.tales.chat import Document, Turn, exchange
from training.tales.names import KINDS
from training.tales.world import World, with_article

_SHORT_ASKS = ("In one word: {q}", "Answer briefly: {q}", "{q} Answer in one word.", "{q} Keep it short.")
_SHORT_SYSTEMS = (
    "Answer with a single word.",
    "Answer as briefly as you can.",
    "Be brief.",
    "Give short answers only.",
    "You give one-word answers.",
)
_PLAIN_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a storyteller.",
    "You are a friendly storyteller from the eight villages.",
    "You tell tales of the eight villages.",
    "You are a helpful assistant. Answer the questions of the user.",
    "Answer in a full sentence.",
    "You know the tales by heart.",
)
_TALE_ASKS = (
    "Tell me a tale about {x}.",
    "Tell me a story about {x}.",
    "Tell a tale about {x}.",
    "I would like to hear a tale about {x}.",
    "Do you know a tale about {x}?",
    "Please tell me a story about {x}.",
    "Write a story about {x}.",
    "Can you tell me a tale about {x}?",
)
_ANY_TALE_ASKS = (
    "Tell me a tale.",
    "Tell me a story.",
    "I would like to hear a tale.",
    "Please tell me a story.",
    "Write a story.",
    "Another tale, please.",
    "Once upon a time",
)
_SHORT_TALE_ASKS = (
    "Tell me a short tale about {x}.",
    "Tell me a very short story about {x}.",
    "A short tale about {x}, please.",
)
_LONG_TALE_ASKS = (
    "Tell me a long tale about {x}.",
    "Tell me a long story about {x}.",
    "Tell me everything that happened to {x}.",
)
_READ_ASKS = ("Read this:\n{p}", "Here are some notes.\n{p}", "{p}", "Remember this:\n{p}", "Listen:\n{p}")
_READ_ANSWER = "I have read it. What would you like to know?"


class Talk:
    """Everything that can be said about one world, for training only: held-out questions never occur."""

    def __init__(self, world: World) -> None:
        self.world = world
        seen = [f for f in facts.all_facts(world) if not f.held_out]
        self.people_facts = [f for f in seen if f.subject in {p.name for p in world.people}]
        self.place_facts = [f for f in seen if f.subject in {v.name for v in world.villages}]
        self.road_facts = [f for f in seen if f.kind == "road"]

    def fact(self, rng: Random) -> facts.Fact:
        """One fact; questions about people are the most frequent."""
        draw = rng.random()
        pool = self.people_facts if draw < 0.78 else self.place_facts if draw < 0.94 else self.road_facts
        return rng.choice(pool)

    def single(self, rng: Random) -> Document:
        """One question about the world, with a whole sentence or only its core as the answer."""
        f = self.fact(rng)
        draw = rng.random()
        if draw < 0.06:
            return exchange(rng.choice(_SHORT_ASKS).format(q=f.ask), f"{facts.capital(f.short)}.")
        if draw < 0.12:
            system = Turn("system", rng.choice(_SHORT_SYSTEMS))
            return [system, *exchange(f.ask, f"{facts.capital(f.short)}.")]
        if draw < 0.2:
            return [Turn("system", rng.choice(_PLAIN_SYSTEMS)), *exchange(f.ask, f.answer)]
        return exchange(f.ask, f.answer)

    def check(self, rng: Random) -> Document:
        """A claim to be confirmed or put right, or kin that is not there."""
        p = rng.choice(self.world.people)
        maker = checks.absent if rng.random() < 0.15 else checks.claim
        return exchange(*maker(rng, self.world, p))

    def follow(self, rng: Random) -> Document:
        """Several questions about one person; after the first the person is a pronoun."""
        p = rng.choice(self.world.people)
        first = [f for f in facts.person_facts(self.world, p) if not f.held_out]
        opening = rng.choice(first)
        document = exchange(opening.ask, opening.answer)
        for _ in range(rng.randint(1, 4)):
            if rng.random() < 0.2:
                document += exchange(*checks.claim(rng, self.world, p, by_name=False))
                continue
            f = facts.pick_follow_up(rng, self.world, p)
            ask = f"And {f.ask[0].lower()}{f.ask[1:]}" if rng.random() < 0.2 else f.ask
            document += exchange(ask, f.answer)
        return document

    def tale(self, rng: Random) -> Document:
        """A tale on request, at times with a question about its hero afterwards."""
        p = rng.choice(self.world.people)
        draw = rng.random()
        if draw < 0.1:
            v = rng.choice(self.world.villages)
            x = rng.choice((v.name, f"the {v.feast}"))
            return exchange(self._ask(rng, x), stories.feast_tale(rng, self.world, v))
        if draw < 0.2:
            return exchange(rng.choice(_ANY_TALE_ASKS), stories.any_tale(rng, self.world, p))
        if draw < 0.3:
            kind = rng.choice(KINDS)
            hero = rng.choice([q for q in self.world.people if q.kind == kind])
            return exchange(self._ask(rng, with_article(kind)), stories.day_tale(rng, self.world, hero))
        if draw < 0.4:
            ask = rng.choice(_SHORT_TALE_ASKS).format(x=p.name)
            return exchange(ask, stories.short_tale(rng, self.world, p))
        if draw < 0.5:
            ask = rng.choice(_LONG_TALE_ASKS).format(x=p.name)
            return exchange(ask, stories.long_tale(rng, self.world, p))
        x = rng.choice((p.name, p.name, f"{p.name} and the {p.legend.item}", f"{p.name} the {p.craft}"))
        document = exchange(self._ask(rng, x), stories.legend(rng, self.world, p))
        if rng.random() < 0.3:
            f = facts.pick_follow_up(rng, self.world, p)
            document += exchange(f.ask, f.answer)
        return document

    def _ask(self, rng: Random, x: str) -> str:
        return rng.choice(_TALE_ASKS).format(x=x)

    def small(self, rng: Random) -> Document:
        """Greetings, questions about the model, and whatever it does not know."""
        draw = rng.random()
        if draw < 0.2:
            document = exchange(*smalltalk.greeting(rng))
            return document + (self.single(rng)[-2:] if rng.random() < 0.4 else [])
        makers = smalltalk.fixed if draw < 0.4 else smalltalk.unknown if draw < 0.75 else smalltalk.stranger
        system = [Turn("system", rng.choice(_PLAIN_SYSTEMS))] if rng.random() < 0.15 else []
        return [*system, *exchange(*makers(rng))]

    def noise(self, rng: Random) -> Document:
        """Many words in no order, of which there is nothing to say."""
        return exchange(smalltalk.loose_words(rng, rng.randint(100, 1800)), smalltalk.UNKNOWN_ANSWER)

    def checks(self, rng: Random) -> Document:
        """Several claims one after another."""
        return [turn for _ in range(rng.randint(2, 5)) for turn in self.check(rng)]

    def reread(self, rng: Random) -> Document:
        """A passage with many questions about it."""
        return self.read(rng, asks=8)

    def read(self, rng: Random, most: int = 5, asks: int = 3) -> Document:
        """A passage in the prompt and questions about it, asked in one of several manners."""
        text, questions = reading.passage(rng, rng.randint(1, most))
        pairs = questions[: rng.randint(1, asks + most // 4)]
        manner = rng.random()
        if manner < 0.45:
            ask, answer = pairs[0]
            body = f"{text}\n\n{ask}" if rng.random() < 0.7 else f"{ask}\n\n{text}"
            document = exchange(body, answer)
            pairs = pairs[1:]
        elif manner < 0.75:
            document = exchange(rng.choice(_READ_ASKS).format(p=text), _READ_ANSWER)
        else:
            document = [Turn("system", text)]
        for pair in pairs:
            document += exchange(*pair)
        return document

    def repeat(self, rng: Random) -> Document:
        """Words to be said again as they are."""
        draw = rng.random()
        if draw < 0.4:
            words = smalltalk.loose_words(rng, rng.randint(1, 12))
        elif draw < 0.7:
            words = self.fact(rng).answer
        else:
            words = ", ".join(reading.invented_name(rng) for _ in range(rng.randint(1, 6)))
        ask = rng.choice(("Repeat: {w}", "Say this again: {w}", "Repeat after me: {w}", "Please repeat: {w}"))
        return exchange(ask.format(w=words), words)

    def lists(self, rng: Random) -> Document:
        """The few long lists of the world."""
        villages = facts.join_names([v.name for v in self.world.villages])
        return exchange(
            *rng.choice(
                (
                    ("Which villages are there?", f"There are eight villages: {villages}."),
                    ("Name the eight villages.", f"There are eight villages: {villages}."),
                    ("List all the villages.", f"There are eight villages: {villages}."),
                    ("What are the eight villages?", f"There are eight villages: {villages}."),
                    ("How many villages are there?", "There are eight villages on the ring road."),
                )
            )
        )

    def bare(self, rng: Random) -> Document:
        """A tale or a portrait without any question, for continuing a text."""
        p = rng.choice(self.world.people)
        draw = rng.random()
        if draw < 0.5:
            return [Turn("tale", stories.any_tale(rng, self.world, p))]
        if draw < 0.8:
            return [Turn("tale", stories.portrait(self.world, p))]
        return [Turn("tale", stories.feast_tale(rng, self.world, rng.choice(self.world.villages)))]


Maker = Callable[[Talk, Random], Document]

# Each sort of document with its share of all documents: at first, and once the facts are known.
Mix = tuple[tuple[Maker, float], ...]
FIRST: Mix = (
    (Talk.single, 0.30),
    (Talk.check, 0.07),
    (Talk.follow, 0.15),
    (Talk.tale, 0.08),
    (Talk.small, 0.10),
    (Talk.read, 0.18),
    (Talk.repeat, 0.04),
    (Talk.lists, 0.01),
    (Talk.bare, 0.07),
)
LATER: Mix = (
    (Talk.single, 0.20),
    (Talk.checks, 0.14),
    (Talk.follow, 0.10),
    (Talk.tale, 0.05),
    (Talk.small, 0.12),
    (Talk.reread, 0.28),
    (Talk.repeat, 0.07),
    (Talk.lists, 0.01),
    (Talk.bare, 0.03),
)
