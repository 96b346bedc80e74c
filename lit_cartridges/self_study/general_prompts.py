"""Seed prompts for conversations about anything: what makes a model write the requests of a general set of its own.

A model that is asked for "some question" asks the same few again and again; so each wording names a subject and a form.
"""

from __future__ import annotations

from lit_cartridges.self_study.seed_prompts import SeedPrompts, register_seed_prompts

_SUBJECTS = (
    *(
        "cooking",
        "the weather",
        "ancient history",
        "a European country",
        "an African country",
        "the human body",
    ),
    *("planets and stars", "chemistry", "a famous painter", "a novel everybody knows", "football", "chess"),
    *(
        "gardening",
        "house pets",
        "a large city",
        "trains",
        "a programming language",
        "spreadsheets",
        "prime numbers",
    ),
    *(
        "percentages",
        "geometry",
        "grammar",
        "a foreign word",
        "etiquette",
        "a job interview",
        "personal finance",
    ),
    *(
        "first aid",
        "sleep",
        "a musical instrument",
        "film",
        "mountains",
        "rivers and seas",
        "birds",
        "insects",
    ),
    *(
        "electricity",
        "bicycles",
        "clocks and calendars",
        "a national holiday",
        "law in daily life",
        "a philosopher",
    ),
)
_FORMS = {
    "fact": "asks one short question of fact",
    "explanation": "asks for something to be explained in plain words",
    "task": "sets a small task with a definite result, and gives all that is needed for it",
    "passage": "brings a short passage of two or three sentences, and asks one question that the passage answers",
    "format": "asks for something in a certain form: so many sentences, a list, one word, capital letters, JSON",
    "writing": "asks for a few lines of writing",
    "unknown": "asks about a private person, file or event that an assistant cannot know of",
}

GENERAL_PROMPTS: SeedPrompts = {
    kind: [
        f"Write one message that a person might send to an assistant. It {form}, and it has to do with {subject}. Reply with "
        "the message itself and nothing around it."
        for subject in _SUBJECTS
    ]
    for kind, form in _FORMS.items()
}

register_seed_prompts("general", GENERAL_PROMPTS)
