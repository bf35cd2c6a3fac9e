"""The words the world is made of.

Knows only lists of words. Does not know who lives where: `world` deals the words out.
"""


def words(text: str, between: str | None = None) -> list[str]:
    """The words of a text, parted by spaces or by a mark."""
    return text.split(between)


WOMEN = words("Mira Elna Sorrel Tilda Brisa Nell Odette Wren Hazel Isolde Juna Petra Runa Lysa Maren Vesna")
MEN = words("Tam Bram Corin Joss Anselm Perrin Rook Silas Otto Edric Fenn Galen Hob Ivo Kester Leif")

# A village, where it lies, what stands in it, and what it is famous for.
VILLAGES = {
    "Alderbrook": ("by the river", "a stone bridge", "fine rope"),
    "Stonewick": ("at the foot of the mountain", "a ruined castle", "goat cheese"),
    "Fernhollow": ("in a deep forest", "a giant oak", "honey"),
    "Saltmere": ("by the sea", "a tall lighthouse", "salted fish"),
    "Windlow": ("on a hill", "a crooked windmill", "white flour"),
    "Thornby": ("in a green valley", "a round well", "red apples"),
    "Larkmoor": ("on the moor", "an old bell tower", "blue cloth"),
    "Moonford": ("beside a lake", "a market hall", "clay pots"),
}
FEASTS = (
    "Lantern Feast",
    "Apple Fair",
    "Night of Bells",
    "Wool Market",
    "Boat Race",
    "Kite Day",
    "Snow Dance",
    "Harvest Supper",
)
SEASONS = ("spring", "summer", "autumn", "winter")

# A craft and what someone of that craft does all day.
CRAFTS = {
    "baker": "bake bread",
    "weaver": "weave cloth",
    "potter": "shape clay pots",
    "smith": "hammer iron",
    "miller": "grind flour",
    "fisher": "cast nets",
    "carpenter": "build chairs and doors",
    "beekeeper": "gather honey",
    "shepherd": "watch the sheep",
    "healer": "mix herbs",
    "tailor": "sew coats",
    "cooper": "make barrels",
    "glassblower": "blow glass",
    "candlemaker": "dip candles",
    "ferry keeper": "row the ferry",
    "clockmaker": "mend clocks",
    "bookbinder": "bind books",
    "gardener": "grow roses",
    "cobbler": "mend shoes",
    "mason": "cut stone",
    "painter": "paint signs",
    "fiddler": "play the fiddle",
    "dyer": "dye wool",
    "cheesemaker": "press cheese",
    "basket maker": "make baskets",
    "lamplighter": "light the lamps",
    "bell ringer": "ring the bells",
    "mapmaker": "draw maps",
    "ropemaker": "twist rope",
    "tanner": "cure leather",
    "toymaker": "carve toys",
    "woodcutter": "chop wood",
}

KINDS = words("fox goat owl cat dog donkey goose hare raven hedgehog pony duck otter squirrel badger turtle")
PETS = words(
    "Pip Bramble Nutmeg Pebble Clover Soot Thistle Biscuit Acorn Pepper Button Moss Ginger Flint Dapple "
    "Snowdrop Barley Cricket Juniper Patch Marble Bluebell Tansy Ember Poppy Mustard Puddle Feather Rusty "
    "Willow Ziggy Quill"
)

LOOKS = words("silver blue brass red wooden green golden copper")
THINGS = words(
    "flute lantern compass kite horse cloak ring kettle bead shell drum comb mirror key book map whistle "
    "spoon hat scarf bell cup box knife coin harp basket bottle clock brush quilt mask"
)
HIDEOUTS = (
    "under the bed",
    "in the attic",
    "behind the stove",
    "in an old chest",
    "on the window sill",
    "in the cellar",
    "beneath the stairs",
    "inside a hollow tree",
)
FOODS = (
    "honey cake",
    "pea soup",
    "apple pie",
    "plum jam",
    "nut bread",
    "fish stew",
    "berry tart",
    "cheese pie",
    "baked pears",
    "mushroom soup",
    "oat porridge",
    "carrot cake",
    "cherry pie",
    "roasted chestnuts",
    "potato dumplings",
    "ginger biscuits",
)
FEARS = (
    "thunder",
    "spiders",
    "deep water",
    "the dark",
    "high places",
    "wolves",
    "geese",
    "ghosts",
    "snakes",
    "thin ice",
    "moths",
    "bats",
    "fog",
    "bulls",
    "strong wind",
    "fire",
)

# The things sought in the legends: every first word with every second word.
QUEST_FIRST = words("Moon Sun Star Frost Storm River Shadow Rain")
QUEST_SECOND = words("Bell Stone Crown Lamp")
SPOTS = (
    "under a mossy rock",
    "at the bottom of a well",
    "in an empty nest",
    "behind a waterfall",
    "in a locked barn",
    "below the old bridge",
    "in a wolf's den",
    "on top of a tower",
)
OBSTACLES = (
    "a wide river",
    "a thick fog",
    "a sleeping giant",
    "a locked gate",
    "a dark cave",
    "a snow storm",
    "a broken bridge",
    "a hungry wolf",
)
WAYS = (
    "by singing softly",
    "by telling a riddle",
    "by sharing some bread",
    "by waiting until dawn",
    "by tying a long rope",
    "by lighting a lantern",
    "by following the stars",
    "by asking politely",
)
