"""What is said apart from the facts: greetings, thanks, who am I, and honest not-knowing.

Knows only fixed phrases. The things the model does not know are drawn from everyday words, so that it
learns to say so for anything outside the tales.
"""

from random import Random

from training.tales.names import words
from training.tales.reading import invented_name

GREETINGS = (
    "Hello!",
    "Hello",
    "Hi",
    "Hi!",
    "Hello there!",
    "Good morning!",
    "Good evening!",
    "Hey",
    "Greetings!",
)
GREETING_ANSWER = (
    "Hello! I know the tales of the eight villages. Ask me about their people, or ask me for a tale."
)

FIXED = (
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me about yourself.",
            "Introduce yourself.",
        ),
        "I am Diptych Tales, a very small model that knows the tales of the eight villages.",
    ),
    (
        (
            "What can you do?",
            "What do you know?",
            "What can I ask you?",
            "Help",
            "What can you tell me about?",
            "How can you help me?",
        ),
        "I can tell you where people live, what they do and which animals they keep. I can also tell a tale.",
    ),
    (
        ("How are you?", "How are you today?", "How do you do?", "Are you well?", "How is it going?"),
        "I am well, thank you. Shall I tell you a tale?",
    ),
    (
        (
            "Thank you!",
            "Thanks",
            "Thank you very much.",
            "Thanks a lot!",
            "That was nice.",
            "Great, thank you.",
        ),
        "You are welcome. Ask me for another tale whenever you like.",
    ),
    (
        ("Goodbye!", "Bye", "Good night!", "See you later.", "Bye bye!", "Farewell!"),
        "Goodbye! May the road be kind to you.",
    ),
)

_TOPICS = words(
    "the capital of France;the moon;computers;the weather;football;music;the stock market;black holes;"
    "the president;mathematics;cars;the internet;history;Japan;New York;chess;cooking rice;airplanes;"
    "electricity;medicine;the ocean;dinosaurs;space travel;politics;money;films;phones;coffee;the sun;"
    "Rome;Berlin;China;Africa;robots;banks;chemistry;atoms;energy;a car engine;the speed of light;"
    "machine learning;language models;a neural network;Python;JavaScript;the economy;tennis;cats in space;"
    "volcanoes;the human body;vaccines;a good book;poetry;the radio;television;batteries;trains;rockets;"
    "quantum physics;taxes;the law;gravity;photosynthesis;the French Revolution;London;Paris;India;Mars;"
    "the stars;the largest city in the world;the tallest mountain;the longest river;oil;paper;pizza;tea",
    ";",
)
_UNKNOWN_ASKS = (
    "What is {t}?",
    "Tell me about {t}.",
    "What do you know about {t}?",
    "Explain {t}.",
    "Can you explain {t} to me?",
    "How does {t} work?",
    "Write an essay about {t}.",
    "Who invented {t}?",
    "Give me three facts about {t}.",
    "Why is {t} important?",
    "Write a poem about {t}.",
    "Summarize {t} in one sentence.",
    "What is your opinion on {t}?",
    "When was {t} discovered?",
    "Where is {t}?",
    "Tell me a joke about {t}.",
    "I want to learn about {t}.",
    "Describe {t} briefly.",
)
_ODD_ASKS = (
    "What is 2 + 2?",
    "What is {n} plus {m}?",
    "What is {n} times {m}?",
    "Calculate {n} * {m}.",
    "Write a program that prints {n}.",
    "What time is it?",
    "What day is today?",
    "Translate this to German: {w}",
    "Write Python code to sort a list.",
    "Write a function that adds two numbers.",
    "Who won the world cup in {n}?",
    "What happened in {n}?",
    "How old are you?",
    "Where are you from?",
    "Do you like me?",
    "What is the meaning of life?",
    "What is the population of {t}?",
    "{w}",
    "{n}",
    "test",
    "?",
    "...",
    "asdf",
)
_LOOSE = words(
    "time year people way day man thing woman life child world school state family student group country "
    "problem hand part place case week company system program question work number night point home water "
    "room area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power hour game line end member law car city community name the of and to in is "
    "that it was for on are as with be by this have from or one had not but what all were when we there can"
)
UNKNOWN_ANSWER = "I do not know that. I only know the tales of the eight villages."
_PERSON_ASKS = (
    "Where does {x} live?",
    "Who is {x}?",
    "What is {x}'s craft?",
    "Tell me about {x}.",
    "What animal does {x} have?",
    "Who is the friend of {x}?",
    "What is {x} afraid of?",
    "Tell me a tale about {x}.",
    "What does {x} like to eat?",
    "What is {x}'s treasure?",
)


def greeting(rng: Random) -> tuple[str, str]:
    """A greeting and what is said in return."""
    return rng.choice(GREETINGS), GREETING_ANSWER


def fixed(rng: Random) -> tuple[str, str]:
    """A question about the model itself, thanks, or a farewell."""
    asks, answer = rng.choice(FIXED)
    return rng.choice(asks), answer


def loose_words(rng: Random, count: int) -> str:
    """Words in no order."""
    return " ".join(rng.choice(_LOOSE) for _ in range(count))


def unknown(rng: Random) -> tuple[str, str]:
    """A question about the wide world and the honest answer."""
    ask = rng.choice(_UNKNOWN_ASKS if rng.random() < 0.6 else _ODD_ASKS)
    slots = {
        "t": rng.choice(_TOPICS),
        "n": str(rng.randint(2, 2100)),
        "m": str(rng.randint(2, 99)),
        "w": loose_words(rng, rng.randint(1, 40)),
    }
    return ask.format(**slots), UNKNOWN_ANSWER


def stranger(rng: Random) -> tuple[str, str]:
    """A question about somebody who is not in the world."""
    name = invented_name(rng)
    return rng.choice(_PERSON_ASKS).format(x=name), f"I do not know anyone called {name}."
