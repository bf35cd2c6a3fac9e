"""Every single fact of the world as a question kind with many phrasings.

Knows how a fact is asked for and answered. Does not know how questions are strung into a dialogue.
A phrasing names its subject by slots (`{who}`, `{whose}`, `{whom}`), so that the same phrasing serves
for a name and for a pronoun.
"""

from dataclasses import dataclass
from random import Random
from zlib import crc32

from training.tales.names import CRAFTS
from training.tales.world import Person, Village, World, with_article


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of question: its phrasings, its full answer and its answer in a word or two."""

    key: str
    asks: tuple[str, ...]
    answer: str
    short: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A question that can be asked, the whole sentence that answers it, and the core of that answer."""

    kind: str
    subject: str
    ask: str
    answer: str
    short: str

    @property
    def held_out(self) -> bool:
        """True for the phrasing and subject pairs that training never sees."""
        return crc32(f"{self.kind}|{self.subject}|{self.ask}".encode()) % 12 == 0


PERSON_KINDS = (
    Kind(
        "village",
        (
            "Where does {who} live?",
            "In which village does {who} live?",
            "What is the name of {whose} village?",
            "Where can I find {whom}?",
            "Where is {whose} home?",
            "Which village is {whose} home?",
            "Tell me where {who} lives.",
            "Do you know where {who} lives?",
        ),
        "{Who} lives in {village}.",
        "{village}",
    ),
    Kind(
        "craft",
        (
            "What is {whose} craft?",
            "What does {who} do?",
            "What work does {who} do?",
            "What is {whose} job?",
            "How does {who} earn a living?",
            "What does {who} do all day?",
            "Which craft does {who} follow?",
            "Tell me what {who} does for a living.",
        ),
        "{Who} is {a_craft} and {work}.",
        "{craft}",
    ),
    Kind(
        "animal",
        (
            "What animal does {who} have?",
            "Which animal does {who} keep?",
            "Does {who} have a pet?",
            "What kind of animal is {whose} pet?",
            "What pet does {who} have?",
            "Which animal lives with {whom}?",
            "Tell me about {whose} animal.",
            "Does {who} keep an animal?",
        ),
        "{Who} keeps {a_kind} called {pet}.",
        "{kind}",
    ),
    Kind(
        "pet",
        (
            "What is the name of {whose} {kind}?",
            "What is {whose} {kind} called?",
            "What is the name of {whose} pet?",
            "What is {whose} pet called?",
            "How does {who} call {his} {kind}?",
            "What name did {who} give to {his} {kind}?",
        ),
        "{Whose} {kind} is called {pet}.",
        "{pet}",
    ),
    Kind(
        "treasure",
        (
            "What is {whose} treasure?",
            "What does {who} treasure most?",
            "Which treasure does {who} own?",
            "What is the dearest thing {who} owns?",
            "What precious thing does {who} have?",
            "What thing does {who} love most?",
            "Does {who} own a treasure?",
        ),
        "{Whose} treasure is {a_treasure}.",
        "{treasure}",
    ),
    Kind(
        "hideout",
        (
            "Where does {who} keep {his} treasure?",
            "Where is {whose} {thing}?",
            "Where does {who} hide {his} {thing}?",
            "Where is {whose} treasure hidden?",
            "Where does {who} keep the {treasure}?",
            "In what place does {who} keep {his} {treasure}?",
        ),
        "{Who} keeps the {treasure} {hideout}.",
        "{hideout}",
    ),
    Kind(
        "food",
        (
            "What does {who} like to eat?",
            "What is {whose} favourite food?",
            "Which food does {who} like best?",
            "What food does {who} love?",
            "What should I cook for {whom}?",
            "What does {who} eat most gladly?",
            "What is {whose} favorite food?",
            "What is {whose} favourite dish?",
        ),
        "{Who} likes {food} best of all.",
        "{food}",
    ),
    Kind(
        "fear",
        (
            "What is {who} afraid of?",
            "What does {who} fear?",
            "What frightens {whom}?",
            "What scares {whom}?",
            "Is {who} afraid of anything?",
            "What is {whose} greatest fear?",
        ),
        "{Who} is afraid of {fear}.",
        "{fear}",
    ),
    Kind(
        "friend",
        (
            "Who is {whose} friend?",
            "Who is the best friend of {whom}?",
            "Who is {whose} best friend?",
            "With whom is {who} friends?",
            "Does {who} have a friend?",
            "Who is a friend of {whom}?",
            "What is the name of {whose} friend?",
        ),
        "{Whose} best friend is {friend} from {friend_village}.",
        "{friend}",
    ),
    Kind(
        "legend",
        (
            "What did {who} look for in the old tale?",
            "What did {who} seek?",
            "What did {who} search for on {his} great journey?",
            "Which lost thing did {who} find?",
            "What is {who} famous for?",
            "What did {who} find on {his} journey?",
            "What was {whose} quest?",
        ),
        "{Who} looked for the {item} and found it in {target}.",
        "{item}",
    ),
    Kind(
        "spot",
        (
            "Where did {who} find the {item}?",
            "Where was the {item} found?",
            "Where was the {item} hidden?",
            "In what place did {who} find the {item}?",
            "Where did the {item} lie?",
            "Where had the {item} been all along?",
        ),
        "{Who} found the {item} in {target}, {spot}.",
        "{spot}",
    ),
    Kind(
        "helper",
        (
            "Who helped {whom} find the {item}?",
            "Which animal helped {whom} on {his} journey?",
            "Who helped {whom} on the way?",
            "Which animal did {who} meet on {his} journey?",
            "Who was {whose} helper on the journey?",
            "Who showed {whom} the way to the {item}?",
        ),
        "{A_helper} helped {whom} find the {item}.",
        "{helper}",
    ),
    Kind(
        "obstacle",
        (
            "What stood in {whose} way?",
            "What blocked {whose} road to the {item}?",
            "What stopped {whom} on the road?",
            "What trouble did {who} meet on {his} journey?",
            "What danger did {who} meet on the way to the {item}?",
        ),
        "{Obstacle} stood in {whose} way.",
        "{obstacle}",
    ),
    Kind(
        "way",
        (
            "How did {who} get past {the_obstacle}?",
            "How did {who} overcome {the_obstacle}?",
            "How did {who} pass {the_obstacle} on {his} journey?",
            "What did {who} do about {the_obstacle}?",
        ),
        "{Who} got past {the_obstacle} {way}.",
        "{way}",
    ),
    Kind(
        "about",
        (
            "Who is {who}?",
            "Tell me about {whom}.",
            "What do you know about {whom}?",
            "What can you tell me about {whom}?",
            "Do you know {whom}?",
            "Describe {whom}.",
            "Have you heard of {whom}?",
        ),
        "{Who} is {a_craft} from {village}. "
        "{He} keeps {a_kind} called {pet}, likes {food} and is afraid of {fear}.",
        "{a_craft} from {village}",
    ),
)

KIN_KINDS = {
    "parent": Kind(
        "parent",
        (
            "Who is {whose} {parent_word}?",
            "Who is the {parent_word} of {whom}?",
            "What is the name of {whose} {parent_word}?",
            "Whose {child_word} is {who}?",
            "Who are {whose} parents?",
        ),
        "{Whose} {parent_word} is {parent}.",
        "{parent}",
    ),
    "children": Kind(
        "children",
        (
            "Who are {whose} children?",
            "Does {who} have children?",
            "What are {whose} children called?",
            "Who are the children of {whom}?",
            "How many children does {who} have?",
        ),
        "{Who} has {child_count}: {child_list}.",
        "{child_list}",
    ),
    "sibling": Kind(
        "sibling",
        (
            "Who is {whose} {sibling_word}?",
            "Does {who} have a brother or a sister?",
            "What is the name of {whose} {sibling_word}?",
            "Who is the {sibling_word} of {whom}?",
            "Does {who} have any siblings?",
        ),
        "{Whose} {sibling_word} is {sibling}.",
        "{sibling}",
    ),
    "grandparent": Kind(
        "grandparent",
        (
            "Who is {whose} {grand_word}?",
            "Who is the {grand_word} of {whom}?",
            "What is the name of {whose} {grand_word}?",
        ),
        "{Whose} {grand_word} is {grandparent}.",
        "{grandparent}",
    ),
}

# Questions that describe somebody and ask for the name; they take no pronoun.
NAME_KINDS = (
    Kind(
        "who_craft",
        (
            "Who is the {craft}?",
            "Who {work}?",
            "Who is the {craft} of {village}?",
            "What is the name of the {craft}?",
            "Which person is {a_craft}?",
            "Do you know the {craft}?",
            "Who {work} in {village}?",
        ),
        "{name} from {village} is the {craft}.",
        "{name}",
    ),
    Kind(
        "who_pet",
        (
            "Who owns {pet}?",
            "Whose {kind} is {pet}?",
            "Who is {pet}?",
            "To whom does {pet} belong?",
            "Who owns the {kind} called {pet}?",
            "Who has {a_kind} called {pet}?",
            "What do you know about {pet}?",
        ),
        "{pet} is {a_kind} and belongs to {name}.",
        "{name}",
    ),
    Kind(
        "who_treasure",
        (
            "Who owns the {treasure}?",
            "Whose treasure is the {treasure}?",
            "Who has {a_treasure}?",
            "To whom does the {treasure} belong?",
            "Who keeps {a_treasure} {hideout}?",
            "Whose is the {treasure}?",
        ),
        "The {treasure} belongs to {name}.",
        "{name}",
    ),
    Kind(
        "who_legend",
        (
            "Who found the {item}?",
            "Who looked for the {item}?",
            "Who sought the {item}?",
            "Who brought home the {item}?",
            "What do you know about the {item}?",
            "Who is the hero in the tale of the {item}?",
        ),
        "{name} found the {item} in {target}, {spot}.",
        "{name}",
    ),
)

VILLAGE_KINDS = (
    Kind(
        "setting",
        ("Where is {v}?", "Where does {v} lie?", "Where can I find {v}?", "In what place was {v} built?"),
        "{v} lies {setting}.",
        "{setting}",
    ),
    Kind(
        "landmark",
        (
            "What can I see in {v}?",
            "What is the landmark of {v}?",
            "What stands in {v}?",
            "What is there to see in {v}?",
        ),
        "In {v} stands {landmark}.",
        "{landmark}",
    ),
    Kind(
        "goods",
        (
            "What is {v} famous for?",
            "What is {v} known for?",
            "What do the people of {v} sell?",
            "What should I buy in {v}?",
            "What is made in {v}?",
        ),
        "{v} is famous for its {goods}.",
        "{goods}",
    ),
    Kind(
        "feast",
        (
            "Which feast is held in {v}?",
            "What do the people of {v} celebrate?",
            "What is the feast of {v} called?",
            "Is there a feast in {v}?",
            "What feast do they have in {v}?",
        ),
        "In {v} they hold the {feast} in {season}.",
        "{feast}",
    ),
    Kind(
        "season",
        (
            "When is the {feast}?",
            "In which season is the {feast} held?",
            "When do they celebrate the {feast}?",
            "In what season is the {feast} of {v}?",
        ),
        "The {feast} is held in {season}.",
        "{season}",
    ),
    Kind(
        "feast_where",
        (
            "Where is the {feast} held?",
            "Which village holds the {feast}?",
            "Where can I see the {feast}?",
            "In which village is the {feast}?",
        ),
        "The {feast} is held in {v}.",
        "{v}",
    ),
    Kind(
        "landmark_where",
        (
            "Where is {the_landmark}?",
            "Which village has {landmark}?",
            "In which village does {landmark} stand?",
            "Where can I see {landmark}?",
        ),
        "{The_landmark} stands in {v}.",
        "{v}",
    ),
    Kind(
        "goods_where",
        (
            "Which village is famous for its {goods}?",
            "Where can I buy {goods}?",
            "Where does the best {goods} come from?",
            "Which village makes {goods}?",
        ),
        "{v} is famous for its {goods}.",
        "{v}",
    ),
    Kind(
        "setting_where",
        (
            "Which village lies {setting}?",
            "What is the name of the village {setting}?",
            "What village is {setting}?",
        ),
        "The village {setting} is {v}.",
        "{v}",
    ),
    Kind(
        "elder",
        (
            "Who is the elder of {v}?",
            "Who leads {v}?",
            "Who is the oldest person in {v}?",
            "What is the name of the elder of {v}?",
        ),
        "The elder of {v} is {elder}.",
        "{elder}",
    ),
    Kind(
        "folk",
        (
            "Who lives in {v}?",
            "Who are the people of {v}?",
            "Name the people of {v}.",
            "Which people live in {v}?",
            "List everyone who lives in {v}.",
        ),
        "{folk} live in {v}.",
        "{folk}",
    ),
    Kind(
        "next",
        (
            "Which village comes after {v} on the ring road?",
            "What is the next village after {v}?",
            "Which village follows {v} on the road?",
        ),
        "After {v} the ring road comes to {next}.",
        "{next}",
    ),
    Kind(
        "before",
        (
            "Which village comes before {v} on the ring road?",
            "What village lies just before {v} on the road?",
        ),
        "Before {v} the ring road passes {before}.",
        "{before}",
    ),
    Kind(
        "neighbours",
        (
            "Which villages are next to {v}?",
            "What are the neighbours of {v}?",
            "Which villages are near {v}?",
        ),
        "The neighbours of {v} are {before} and {next}.",
        "{before} and {next}",
    ),
    Kind(
        "about_village",
        (
            "Tell me about {v}.",
            "What do you know about {v}?",
            "Describe {v}.",
            "What kind of place is {v}?",
            "What is {v}?",
        ),
        "{v} is a village {setting}. It has {landmark} and is famous for its {goods}. "
        "In {season} they hold the {feast} there.",
        "a village {setting}",
    ),
)

ROAD_ASKS = (
    "How do I get from {start} to {goal}?",
    "What is the way from {start} to {goal}?",
    "Which villages lie on the road from {start} to {goal}?",
    "I am in {start}. How do I walk to {goal}?",
)


def join_names(words: tuple[str, ...] | list[str]) -> str:
    """Words as a spoken list: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def capital(text: str) -> str:
    """The text with its first letter made large."""
    return text[:1].upper() + text[1:]


def third(deed: str) -> str:
    """A deed as he or she does it: build chairs becomes builds chairs."""
    verb, rest = deed.split(" ", 1)
    return f"{verb}{'es' if verb.endswith(('ch', 'ss', 'x')) else 's'} {rest}"


def uncapital(text: str) -> str:
    """The text as it stands inside a sentence: a first word that is no name is made small."""
    small = text.split(" ", 1)[0] in ("She", "He", "Her", "His", "In", "A", "An", "The")
    return text[:1].lower() + text[1:] if small else text


def the(noun: str) -> str:
    """A noun phrase with its a or an turned into the."""
    return "the " + noun.split(" ", 1)[1]


def person_slots(world: World, p: Person) -> dict[str, str]:
    """Everything a phrasing about a person may name, apart from how the person is called."""
    deed = p.legend
    slots = {
        "name": p.name,
        "he": p.he,
        "He": capital(p.he),
        "his": p.his,
        "village": p.village,
        "craft": p.craft,
        "a_craft": with_article(p.craft),
        "toil": CRAFTS[p.craft],
        "work": third(CRAFTS[p.craft]),
        "kind": p.kind,
        "a_kind": with_article(p.kind),
        "pet": p.pet,
        "treasure": p.treasure,
        "a_treasure": with_article(p.treasure),
        "thing": p.treasure.split()[1],
        "hideout": p.hideout,
        "food": p.food,
        "fear": p.fear,
        "friend": p.friend,
        "friend_village": world.person(p.friend).village,
        "item": deed.item,
        "target": deed.target,
        "spot": deed.spot,
        "helper": deed.helper,
        "a_helper": with_article(deed.helper),
        "A_helper": capital(with_article(deed.helper)),
        "obstacle": deed.obstacle,
        "Obstacle": capital(deed.obstacle),
        "the_obstacle": the(deed.obstacle),
        "way": deed.way,
    }
    return slots | _kin_slots(world, p)


def _kin_slots(world: World, p: Person) -> dict[str, str]:
    slots = {"child_word": "daughter" if p.woman else "son"}
    if p.parent:
        parent = world.person(p.parent)
        slots |= {"parent": parent.name, "parent_word": "mother" if parent.woman else "father"}
        if parent.parent:
            grand = world.person(parent.parent)
            slots |= {
                "grandparent": grand.name,
                "grand_word": "grandmother" if grand.woman else "grandfather",
            }
    if p.sibling:
        slots |= {
            "sibling": p.sibling,
            "sibling_word": "sister" if world.person(p.sibling).woman else "brother",
        }
    if p.children:
        count = {1: "one child", 2: "two children"}[len(p.children)]
        slots |= {"child_list": join_names(p.children), "child_count": count}
    return slots


def named(p: Person) -> dict[str, str]:
    """The slots that call the person by name."""
    own = f"{p.name}'s"
    return {"who": p.name, "Who": p.name, "whom": p.name, "whose": own, "Whose": own}


def pronoun(p: Person) -> dict[str, str]:
    """The slots that call the person by a pronoun."""
    return {"who": p.he, "Who": capital(p.he), "whom": p.him, "whose": p.his, "Whose": capital(p.his)}


def village_slots(world: World, v: Village) -> dict[str, str]:
    """Everything a phrasing about a village may name."""
    folk = world.folk(v.name)
    return {
        "v": v.name,
        "setting": v.setting,
        "landmark": v.landmark,
        "the_landmark": the(v.landmark),
        "The_landmark": capital(the(v.landmark)),
        "goods": v.goods,
        "feast": v.feast,
        "season": v.season,
        "elder": next(p.name for p in folk if p.elder),
        "folk": join_names([p.name for p in folk]),
        "next": world.next_village(v.name).name,
        "before": world.next_village(v.name, -1).name,
    }


def kinds_of(p: Person) -> tuple[Kind, ...]:
    """The kinds of question that can be asked about this person with a name or a pronoun."""
    kin = [KIN_KINDS["parent"]] if p.parent else []
    kin += [KIN_KINDS["children"]] if p.children else []
    kin += [KIN_KINDS["sibling"], KIN_KINDS["grandparent"]] if p.sibling else []
    return PERSON_KINDS + tuple(kin)


def make(kind: Kind, ask: str, subject: str, slots: dict[str, str]) -> Fact:
    """The fact of a kind with its slots filled; a question for yes or no gets its yes."""
    answer = kind.answer.format(**slots)
    if ask.startswith(("Does ", "Do ", "Is ", "Have ")):
        answer = f"Yes, {uncapital(answer)}"
    return Fact(kind.key, subject, ask.format(**slots), answer, kind.short.format(**slots))


def person_facts(world: World, p: Person) -> list[Fact]:
    """Every question about one person that calls the person by name or asks for the name."""
    slots = person_slots(world, p) | named(p)
    return [make(k, ask, p.name, slots) for k in kinds_of(p) + NAME_KINDS for ask in k.asks]


def village_facts(world: World, v: Village) -> list[Fact]:
    """Every question about one village."""
    slots = village_slots(world, v)
    return [make(k, ask, v.name, slots) for k in VILLAGE_KINDS for ask in k.asks]


def road_facts(world: World) -> list[Fact]:
    """The way between every two villages."""
    facts = []
    for a in world.villages:
        for b in world.villages:
            if a is not b:
                answer = f"From {a.name} the road leads to {', then to '.join(world.road(a.name, b.name))}."
                subject = f"{a.name}-{b.name}"
                short = ", ".join(world.road(a.name, b.name))
                asks = (ask.format(start=a.name, goal=b.name) for ask in ROAD_ASKS)
                facts += [Fact("road", subject, ask, answer, short) for ask in asks]
    return facts


def all_facts(world: World) -> list[Fact]:
    """Every question of the world in a fixed order, held-out ones included."""
    facts = [f for p in world.people for f in person_facts(world, p)]
    facts += [f for v in world.villages for f in village_facts(world, v)]
    return facts + road_facts(world)


def pick_follow_up(rng: Random, world: World, p: Person) -> Fact:
    """A question about somebody just spoken of, asked and answered with a pronoun."""
    kind = rng.choice(kinds_of(p))
    slots = person_slots(world, p) | pronoun(p)
    if kind.key == "about":
        slots |= named(p)
    return make(kind, rng.choice(kind.asks), p.name, slots)
