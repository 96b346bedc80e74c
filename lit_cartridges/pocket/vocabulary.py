"""The words of the pocket language: names of people, villages and ships, and the values that facts take.

Every word is one token. Names and the words of one attribute's values are disjoint, so a value says what it is a value of.
"""

from __future__ import annotations

from itertools import product

_ONSETS = "B D F G K L M N P R S T V Z".split()
_MIDDLES = "a e i o u".split()
_PEOPLE_ENDS = "lin mira ran ssa ther".split()
_VILLAGE_ENDS = "dale ford wick".split()
_SHIP_ENDS = "star wave wing".split()
_CITY_ENDS = "nburg rholm".split()


def _names(ends: list[str], count: int) -> list[str]:
    """The first `count` made-up names with these endings, in an order that mixes the first letters."""
    made = ["".join(parts) for parts in product(_ONSETS, _MIDDLES, ends)]
    step = 89  # prime, and no divisor of any of the lengths: walks through all of them
    return [made[(i * step) % len(made)] for i in range(count)]


NAMES: dict[str, list[str]] = {
    "person": _names(_PEOPLE_ENDS, 100),
    "village": _names(_VILLAGE_ENDS, 50),
    "ship": _names(_SHIP_ENDS, 50),
}
"""Names by kind of entity."""

VALUES: dict[str, list[str]] = {
    "city": _names(_CITY_ENDS, 24),
    "year": [str(year) for year in range(1401, 1500, 4)][:24],
    "trade": """baker smith weaver potter miller tailor mason carpenter fisher hunter farmer painter printer barber
        gardener doctor teacher lawyer cook sailor shepherd jeweller tanner brewer""".split(),
    "pet": """cat dog goat rabbit hamster parrot turtle lizard ferret pony hedgehog mouse snake frog donkey monkey fox
        lamb piglet squirrel otter badger spider beetle""".split(),
    "food": """bread cheese soup porridge stew noodles pancakes sausage omelette pudding dumplings rice beans pie salad
        toast biscuits ham trout lentils waffles mushrooms potatoes honey""".split(),
    "colour": """red blue green yellow purple orange pink brown black white grey violet crimson turquoise scarlet
        lavender beige indigo maroon teal""".split(),
    "instrument": """violin flute drum harp trumpet piano guitar cello oboe lute banjo organ bagpipe horn fiddle
        mandolin tuba clarinet zither whistle""".split(),
    "drink": """tea coffee milk water cider wine beer juice cocoa lemonade mead broth rum gin punch buttermilk sherry
        brandy kefir syrup""".split(),
    "river": """Sel Orm Ild Ask Une Wey Ebb Yar Isk Arn Tarn Lyn Oss Cam Dove Hull Nith Spey Tay Usk""".split(),
    "tree": """oak elm ash birch willow maple poplar cedar cypress larch spruce yew linden alder hazel holly rowan
        walnut chestnut pine""".split(),
    "stone": """granite marble slate chalk flint basalt quartz jade amber opal topaz onyx limestone sandstone agate
        garnet obsidian pumice gypsum shale""".split(),
    "fruit": """apple pear plum cherry grape melon fig peach quince lemon apricot raspberry strawberry blueberry
        currant mango banana date olive pomegranate""".split(),
    "cargo": """salt grain timber coal pepper sugar tobacco oil paper glass bricks rope candles barrels carpets books
        spices cotton tin corn""".split(),
    "bird": """eagle swan raven owl falcon heron gull stork crane pelican robin sparrow swallow magpie hawk goose
        pheasant peacock cuckoo albatross""".split(),
    "cloth": """linen silk wool canvas velvet satin felt hemp lace denim flannel tweed cashmere muslin damask brocade
        taffeta corduroy nylon jute""".split(),
    "metal": """iron copper silver gold bronze brass lead zinc steel nickel platinum pewter cobalt titanium tungsten
        chromium mercury aluminium bismuth pearl""".split(),
}
"""Values by attribute."""

ATTRIBUTES: dict[str, list[str]] = {
    "person": ["city", "trade", "pet", "food", "instrument", "drink", "colour", "year"],
    "village": ["river", "tree", "stone", "fruit", "colour", "year"],
    "ship": ["cargo", "bird", "cloth", "metal", "colour", "year"],
}
"""Attributes that an entity of each kind may have."""

KIND_OF: dict[str, str] = {name: kind for kind, names in NAMES.items() for name in names}
"""Name -> kind of entity."""

ATTRIBUTE_OF: dict[str, str] = {value: attribute for attribute, values in VALUES.items() for value in values}
"""Value -> attribute it is a value of."""
