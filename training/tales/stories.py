"""Tales of the world, told in full sentences that agree with its facts.

Knows how a tale is told. Does not know how it is asked for. The order of events is fixed for each sort of
tale; the wording of each event is drawn.
"""

from random import Random

from training.tales.facts import capital, join_names, named, person_slots, the
from training.tales.world import Person, Village, World

_OPEN = (
    "Once upon a time, in the village of {village}, there lived {a_craft} called {name}.",
    "Long ago, in {village} {setting}, there lived {a_craft} whose name was {name}.",
    "In the village of {village} {setting} lived {name}, {a_craft}.",
)
_LEGEND = (
    (
        "{He} would {toil} all day, and {his} {kind} {pet} never left {his} side.",
        "Every day {he} would {toil}, and {his} {kind} {pet} kept {him} company.",
    ),
    (
        'One {time}, {friend} came running from {friend_village}. "The {item} is lost!" {friend} cried.',
        'One {time}, news came from {friend}, the best friend of {name}. "The {item} is gone!" it said.',
    ),
    (
        "So {name} packed some {food} and set out to look for it.",
        "So {name} put some {food} in a bag and set out for {target}.",
        'So {name} said goodbye to {pet}. "I will bring the {item} home," said {name}.',
    ),
    (
        "The road led to {road}.",
        "{He} walked to {road}, and the way was long.",
    ),
    (
        'On the way {he} met {a_helper}. "I know where the {item} lies," said the {helper}. "Follow me."',
        'There {he} met {a_helper}. "I am a friend," said the {helper}, "and I will help you."',
    ),
    (
        "But {obstacle} stood in {his} way. {name} got past {the_obstacle} {way}.",
        "Soon {obstacle} stood in {his} way, but {name} got past {the_obstacle} {way}.",
    ),
    (
        "At last {he} came to {target}, and there, {spot}, lay the {item}.",
        "In {target} {he} looked {spot}, and there was the {item}.",
    ),
    (
        "{name} carried the {item} home to {village}, and all the people sang.",
        "{name} brought it home to {village}, and that night there was {food} for everyone.",
        "{name} thanked the {helper} and went home, and the people of {village} danced until morning.",
    ),
)
_LOST = (
    (
        "{name} owned {a_treasure} and loved it more than anything.",
        "The dearest thing {he} owned was {a_treasure}.",
    ),
    (
        "One {time} the {treasure} was gone.",
        "One {time} {name} looked for the {treasure} and could not find it.",
    ),
    (
        "{He} asked {friend}, but {friend} had not seen it.",
        "{He} went all the way to {friend_village} to ask {friend}, but {friend} had not seen it.",
    ),
    (
        "{name} was afraid of {fear}, but {he} went on looking.",
        "{He} was afraid of {fear}, and it was a hard day, but {he} did not give up.",
    ),
    (
        "Then {pet} the {kind} ran ahead and stopped. There it was, {hideout}!",
        "In the end it was {pet} the {kind} who found it {hideout}.",
    ),
    (
        "{name} laughed and gave {pet} a piece of {food}.",
        "{name} laughed, and the two of them ate {food} by the fire.",
        "From that day on {he} has kept the {treasure} {hideout}.",
    ),
)
_VISIT = (
    (
        "{His} best friend was {friend}, {a_friend_craft} from {friend_village}.",
        "{He} had a good friend in {friend_village}, {a_friend_craft} called {friend}.",
    ),
    (
        "One {time} {name} took {pet} the {kind} along and went to visit {friend}.",
        'One {time} {he} said to {pet}, {his} {kind}: "Today we will visit {friend}."',
    ),
    ("The road led to {friend_road}.", "They walked to {friend_road}."),
    (
        "{friend} was glad and put {friend_food} on the table.",
        '"Come in!" said {friend}, and there was {friend_food} for everyone.',
    ),
    (
        "They talked about the {item} and laughed about the fear of {fear}.",
        "{name} told {friend} about the {item}, and {friend} showed {him} {a_friend_treasure}.",
    ),
    (
        "In the evening {name} went home to {village}, tired and happy.",
        "When the stars came out, {name} and {pet} walked home to {village}.",
    ),
)
_FEAST = (
    (
        "Once a year, in {season}, the people of {v} hold the {feast}.",
        "In {v} {setting} there is a feast in {season} called the {feast}.",
    ),
    (
        "They meet beside {the_landmark}, and {elder}, the elder, says a few words.",
        "{elder}, the elder of {v}, lights a lantern at {the_landmark}.",
    ),
    (
        "{one} brings {one_food}, and {two} brings {two_food}.",
        "There is {one_food} from {one} and {two_food} from {two}.",
    ),
    (
        "{one_pet} the {one_kind} and {two_pet} the {two_kind} run between the tables.",
        "The {one_kind} {one_pet} and the {two_kind} {two_pet} steal what falls to the ground.",
    ),
    (
        "Guests come from {before} and from {next} to buy {goods}.",
        "From {next} and {before} people come for the {goods} of {v}.",
    ),
    (
        "Late at night somebody tells the tale of the {item}, and everyone listens.",
        "When it is dark, {hero} tells how {hero_he} found the {item} in {target}.",
    ),
)
_TIMES = (
    "spring morning",
    "summer day",
    "autumn evening",
    "winter night",
    "cold morning",
    "rainy day",
    "day",
)
_JOINS = ("But that was not all.", "And there is more to tell.", "Another time it happened like this.")


def _told(rng: Random, events: tuple[tuple[str, ...], ...], slots: dict[str, str]) -> str:
    return " ".join(rng.choice(event).format(**slots) for event in events)


def _road_words(world: World, start: str, goal: str) -> str:
    return ", then to ".join(world.road(start, goal))


def tale_slots(rng: Random, world: World, p: Person) -> dict[str, str]:
    """The slots of a tale about one person."""
    friend = world.person(p.friend)
    other = person_slots(world, friend)
    return (
        person_slots(world, p)
        | named(p)
        | {
            "him": p.him,
            "His": capital(p.his),
            "setting": world.village(p.village).setting,
            "time": rng.choice(_TIMES),
            "road": _road_words(world, p.village, p.legend.target),
            "friend_road": _road_words(world, p.village, friend.village),
            "a_friend_craft": other["a_craft"],
            "friend_food": friend.food,
            "a_friend_treasure": other["a_treasure"],
        }
    )


def legend(rng: Random, world: World, p: Person) -> str:
    """The great journey of a person."""
    return _told(rng, (_OPEN, *_LEGEND), tale_slots(rng, world, p))


def short_tale(rng: Random, world: World, p: Person) -> str:
    """The great journey in three sentences."""
    return _told(rng, (_OPEN, _LEGEND[5], _LEGEND[6]), tale_slots(rng, world, p))


def day_tale(rng: Random, world: World, p: Person) -> str:
    """A small tale of one day: a lost treasure or a visit."""
    return _told(rng, (_OPEN, *rng.choice((_LOST, _VISIT))), tale_slots(rng, world, p))


def long_tale(rng: Random, world: World, p: Person) -> str:
    """The journey, the lost treasure and the visit, one after another."""
    slots = tale_slots(rng, world, p)
    first = _told(rng, (_OPEN, *_LEGEND), slots)
    more = [f"{rng.choice(_JOINS)} {_told(rng, events, slots)}" for events in (_LOST, _VISIT)]
    return "\n\n".join((first, *more))


def feast_tale(rng: Random, world: World, v: Village) -> str:
    """How a village holds its feast."""
    folk = world.folk(v.name)
    one, two = rng.sample(folk, 2)
    hero = rng.choice(folk)
    slots = {
        "v": v.name,
        "setting": v.setting,
        "the_landmark": the(v.landmark),
        "goods": v.goods,
        "feast": v.feast,
        "season": v.season,
        "elder": next(p.name for p in folk if p.elder),
        "before": world.next_village(v.name, -1).name,
        "next": world.next_village(v.name).name,
        "hero": hero.name,
        "hero_he": hero.he,
        "item": hero.legend.item,
        "target": hero.legend.target,
    }
    for key, p in (("one", one), ("two", two)):
        slots |= {key: p.name, f"{key}_food": p.food, f"{key}_pet": p.pet, f"{key}_kind": p.kind}
    return _told(rng, _FEAST, slots)


def any_tale(rng: Random, world: World, p: Person) -> str:
    """A tale about a person, the great journey more often than the others."""
    return rng.choice((legend, legend, day_tale))(rng, world, p)


def portrait(world: World, p: Person) -> str:
    """Everything about a person in plain sentences, for learning by heart."""
    s = person_slots(world, p) | named(p)
    lines = [
        "{name} is {a_craft} from {village} and {work}.",
        "{He} keeps {a_kind} called {pet}.",
        "{He} likes {food} best of all and is afraid of {fear}.",
        "{His} treasure is {a_treasure}, and {he} keeps it {hideout}.",
        "{His} best friend is {friend} from {friend_village}.",
        "{name} found the {item} in {target}, {spot}, with the help of {a_helper}.",
    ]
    kin = [f"{s['parent_word']} is {p.parent}"] if p.parent else []
    kin += (
        [f"{s['sibling_word']} is {p.sibling}", f"{s['grand_word']} is {s['grandparent']}"]
        if p.sibling
        else []
    )
    if kin:
        lines.append(f"{capital(p.his)} {join_names(kin)}.")
    if p.children:
        lines.append("{He} has {child_count}: {child_list}.")
    return " ".join(lines).format(**s, His=capital(p.his))
