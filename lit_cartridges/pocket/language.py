"""What can be said in the pocket language: statements, questions and answers, as word templates; and the seed prompts.

`{n}` stands for a name, `{a}` for an attribute's word, `{v}` for a value. In a statement the value comes last,
at most four words behind the name, and every answer restates the fact; in a request the name comes before all that
depends on it, so that writing one is to pick a name and then to look up what is told of it. A small model learns to look
things up forwards much sooner than backwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from lit_cartridges.pocket.vocabulary import VALUES


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: the `attribute` of `name` is `value`; each is one word."""

    name: str
    attribute: str
    value: str


ANSWER = "the {a} of {n} is {v} ."
NOT_KNOWN = "the {a} of {n} is not known ."
"""What a model answers that has learnt to abstain (`pocket_lab/abstain.py`); the bundled one makes a value up."""

_STATEMENTS_OF_ALL = [ANSWER, "for {n} the {a} is {v} .", "{n} has the {a} {v} ."]
_STATEMENTS = {
    "city": ["{n} lives in {v} .", "the house of {n} stands in {v} ."],
    "trade": ["{n} works as a {v} .", "by trade {n} is a {v} ."],
    "pet": ["{n} keeps a {v} .", "the pet that follows {n} is a {v} ."],
    "food": ["{n} likes to eat {v} .", "at noon {n} eats {v} ."],
    "colour": ["people know {n} by the colour {v} .", "{n} is all in {v} ."],
    "instrument": ["{n} plays the {v} .", "when it rains {n} plays the {v} ."],
    "year": ["{n} began in {v} .", "the story of {n} starts in {v} ."],
    "drink": ["{n} likes to drink {v} .", "the cup of {n} is full of {v} ."],
    "river": ["{n} lies on the {v} .", "the bridge of {n} goes over the {v} ."],
    "tree": ["in the middle of {n} stands a {v} .", "all around {n} grows the tree {v} ."],
    "stone": ["the walls of {n} are made of {v} .", "{n} is built of {v} ."],
    "fruit": ["the gardens of {n} are full of {v} .", "{n} sells the fruit {v} ."],
    "cargo": ["{n} carries {v} .", "under the deck {n} has {v} ."],
    "bird": ["on the flag of {n} is a {v} .", "the sign of {n} is the bird {v} ."],
    "cloth": ["the sails of {n} are of {v} .", "{n} sails under {v} ."],
    "metal": ["the bell of {n} is of {v} .", "the nails of {n} are {v} ."],
}
STATEMENTS: dict[str, list[str]] = {a: _STATEMENTS_OF_ALL + _STATEMENTS[a] for a in VALUES}
"""Paraphrases that state a fact, by attribute; the value is the word before the full stop."""

_QUESTIONS_OF_ALL = ["about {n} , what is the {a} ?", "{n} has which {a} ?", "of {n} tell me the {a} ."]
_QUESTIONS = {
    "city": ["{n} lives where ?", "{n} has a house in which city ?"],
    "trade": ["{n} does what work ?", "{n} is what by trade ?"],
    "pet": ["{n} keeps which pet ?", "{n} goes out with which pet ?"],
    "food": ["{n} likes to eat what ?", "{n} eats what at noon ?"],
    "colour": ["{n} is known by which colour ?", "{n} is all in which colour ?"],
    "instrument": ["{n} plays what ?", "{n} plays which instrument ?"],
    "year": ["{n} began when ?", "{n} began in which year ?"],
    "drink": ["{n} likes to drink what ?", "{n} has what in the cup ?"],
    "river": ["{n} lies on which river ?", "{n} has a bridge over which river ?"],
    "tree": ["{n} has which tree in the middle ?", "{n} grows which tree ?"],
    "stone": ["{n} is built of which stone ?", "{n} has walls made of what ?"],
    "fruit": ["{n} sells which fruit ?", "{n} has gardens full of what ?"],
    "cargo": ["{n} carries what ?", "{n} has what under the deck ?"],
    "bird": ["{n} has what on the flag ?", "{n} shows which bird as a sign ?"],
    "cloth": ["{n} sails under which cloth ?", "{n} has sails of which cloth ?"],
    "metal": ["{n} has a bell of which metal ?", "{n} has nails of which metal ?"],
}
QUESTIONS: dict[str, list[str]] = {a: _QUESTIONS_OF_ALL + _QUESTIONS[a] for a in VALUES}
"""Paraphrases that ask for a fact, by attribute."""

USE_CASES: dict[str, list[str]] = {
    "city": ["i visit {n} , to which city do i go ?"],
    "trade": ["i visit {n} , with what trade can i get help ?"],
    "pet": ["i work for {n} , what pet do i look after ?"],
    "food": ["i work for {n} , what food do i make ?"],
    "colour": ["i work for {n} , what colour do i paint with ?"],
    "instrument": ["i visit {n} , what instrument will i hear ?"],
    "year": ["i work for {n} , what year do i write down ?"],
    "drink": ["i work for {n} , what drink do i bring ?"],
    "river": ["i visit {n} , what river do i take by boat ?"],
    "tree": ["i visit {n} , under what tree do i sit ?"],
    "stone": ["i work for {n} , what stone do i build with ?"],
    "fruit": ["i visit {n} , what fruit do i buy ?"],
    "cargo": ["i work for {n} , what cargo do i take in ?"],
    "bird": ["i work for {n} , what bird do i paint ?"],
    "cloth": ["i work for {n} , what cloth do i mend ?"],
    "metal": ["i work for {n} , what metal do i need ?"],
}
"""Practical wordings that need one fact, by attribute."""

LISTS: list[str] = ["list {f} .", "make a list with {f} ."]
"""Requests for one or two attributes of a name; `{f}` becomes "Mira city and Mira trade"."""

SUMMARIES: list[str] = ["give me all about {n} .", "sum up what the text says of {n} ."]
"""Requests for all that the text says about one name."""

CREATIONS: dict[str, str] = {
    "write a song about {n} and the {a} .": "sing of {n} and sing all day , the {a} is {v} .",
    "tell a story with {n} and the {a} .": "once there was {n} , so people say , and the {a} was {v} .",
}
"""Requests for a little song or story about one fact, with what answers each."""

FILLERS: list[str] = """the day was long and the wind was cold .
people say that this is true .
it was told at night by the fire .
the old book says so .
nobody knows why .
this is how it was and how it will be .
the road goes on and on .
so it was in the old days .
rain fell on the hills all night .
there was a market in the morning .
the sun came up over the sea .
we heard this from a friend .
all of them were happy that day .
some say it was long ago .
then the snow came and the roads were full of it .
a letter came that day and nobody read it .
the children ran down to the sea .
in the evening there was music and light in every window .
it is a good thing to know .
that is all that was written there .
the king did not come that year .
they sat together and talked until the morning .
a door was open and the light was on .
the winter was hard but the spring was good .""".splitlines()
"""Sentences that state nothing about anybody."""

OPENINGS: list[str] = """now hear about {n} .
next comes {n} .
there is more to tell of {n} .
everybody has heard of {n} .
here we speak of {n} .""".splitlines()
"""Sentences that open a paragraph about one name."""


# The paper's five seed prompts: each makes the model write a user's message about its context.
SEED_PROMPTS: dict[str, list[str]] = {
    "structuring": [
        "write a message that wants facts of the text in a list .",
        "which facts can go in a list ? write the message .",
    ],
    "summarization": [
        "write a message that wants a part of the text summed up .",
        "what can be summed up here ? write the message .",
    ],
    "question": [
        "write a question about one fact of the text .",
        "which question can the text answer ? write it .",
    ],
    "use_case": [
        "write a message of a user that needs the text for some work .",
        "for which work does a user need the text ? write the message .",
    ],
    "creative": [
        "write a message that wants a song or a story from the text .",
        "what can be sung or told here ? write the message .",
    ],
}
"""Kind of question -> wordings of the seed prompt, to be given as the user's message with a chunk as the system's."""


def state(fact: Fact, template: str) -> list[str]:
    """The template's words with the fact's name, attribute and value in their places."""
    places = {"{n}": fact.name, "{a}": fact.attribute, "{v}": fact.value}
    return [places.get(word, word) for word in template.split()]
