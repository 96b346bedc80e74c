"""Seed prompts: what makes the model ask about a chunk.

The five kinds are those of section 4.1 of arXiv 2506.06266; the wordings are ours. Five kinds instead of one gained the
paper 5 to 8 points, so further ones are easy to add: `register_seed_prompts`, or a mapping of your own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module

from lit_cartridges.errors import CartridgesError

SeedPrompts = dict[str, list[str]]


class SeedPromptError(CartridgesError, ValueError):
    """Seed prompts that cannot be found or used."""


_REPLY_ONLY = "Reply with the message itself and nothing around it."

SEED_PROMPTS: SeedPrompts = {
    "structuring": [
        "Write one message that tells an assistant to put a particular part of the text above into a "
        "structured form: JSON, YAML, a table or a nested list. Say exactly which part by its names, dates "
        "or section titles, so that someone who knows many texts finds it, and say which fields you want. "
        f"{_REPLY_ONLY}",
        "You want some of the information above as data. Pick a portion of it, pick a format such as XML, "
        "CSV or a Markdown table, and write the request you would send, naming the portion so precisely "
        f"that no other could be meant. {_REPLY_ONLY}",
        "Compose a request for a timeline, an outline or a key-value listing of some details above. "
        "Mention the people, things or headings concerned by name, for the reader has no other hint of "
        f"where to look. {_REPLY_ONLY}",
    ],
    "summarization": [
        "Write one message that asks for a summary of a certain part of the text above. Name the part "
        "through its own words, its title, its people or its dates, and state how long and how detailed "
        f"the summary shall be. {_REPLY_ONLY}",
        "Choose one section, episode or argument from the text above and write the request by which you "
        "would have it condensed for a reader in a hurry. Be definite about what is meant and what must "
        f"not be left out. {_REPLY_ONLY}",
        "Ask, in one message, for the main points on one subject treated above. Name that subject and the "
        f"text it comes from plainly, since the one who answers has read a great many. {_REPLY_ONLY}",
    ],
    "question": [
        "Write one question that tests whether somebody remembers the text above in detail: figures, "
        "names, dates, conditions, order of events. It must be clear without the text at hand, so name "
        f"what it is about. {_REPLY_ONLY}",
        "Think of a fact above that a careful reader would know and a careless one would not. Ask for it "
        "in one question that gives enough names and circumstances to have a single right answer, and does "
        f"not give that answer away. {_REPLY_ONLY}",
        "Write a question that needs two or more statements of the text above put together. Name the "
        f"persons, things or sections involved so that it stands on its own. {_REPLY_ONLY}",
    ],
    "use_case": [
        "Who would need the text above in their work, and for what? Take one such person with one "
        "practical task, and write the message that he or she would send to get help with it, with all the "
        f"particulars it needs. {_REPLY_ONLY}",
        "Imagine a decision, a check or a calculation that depends on what stands above. Write the request "
        "of the person who has to carry it out, naming the case so that the right details can be found. "
        f"{_REPLY_ONLY}",
        "Picture a reader with a problem that the information above solves. Write that reader's message: "
        f"the situation, the exact thing wanted, and the names by which it goes in the text. {_REPLY_ONLY}",
    ],
    "creative": [
        "Write one message that sets an unusual task about the contents above: a letter, a dialogue, a "
        "riddle, a comparison, a change of viewpoint. The task must call for facts from the text and name "
        f"what it concerns. {_REPLY_ONLY}",
        "Invent a playful or thought-provoking request that can only be met by someone who knows the text "
        f"above well. Name its subject, so that it is understood by itself. {_REPLY_ONLY}",
        "Ask for a small piece of writing or a line of thought inspired by some detail above, in any style "
        f"you like, and name the detail. {_REPLY_ONLY}",
    ],
}

_registered: dict[str, SeedPrompts] = {}


def register_seed_prompts(name: str, prompts: Mapping[str, Sequence[str]]) -> None:
    """Makes `prompts` (kind → wordings) known under `name`, replacing what had that name.

    Raises:
        SeedPromptError: there is no kind, or a kind without a wording.
    """
    _registered[name] = _checked(prompts, name)


def resolve_seed_prompts(source: str | Mapping[str, Sequence[str]] = "paper") -> SeedPrompts:
    """The prompts behind a registered name, a mapping, or the dotted import path of a mapping.

    Raises:
        SeedPromptError: nothing by that name, or something that is no mapping of kinds to wordings.
    """
    if not isinstance(source, str):
        return _checked(source, "a mapping")
    if source in _registered:
        return _registered[source]
    module, _, attribute = source.rpartition(".")
    if not module:
        raise SeedPromptError(
            f"seed_prompts={source!r} is not registered; take one of {sorted(_registered)}, or an import "
            "path such as 'my_package.SEED_PROMPTS'"
        )
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SeedPromptError(
            f"seed_prompts={source!r} cannot be imported ({error}); registered: {sorted(_registered)}"
        ) from error
    return _checked(found, source)


def _checked(prompts: object, source: str) -> SeedPrompts:
    if not isinstance(prompts, Mapping) or not prompts:
        raise SeedPromptError(
            f"seed_prompts={source}: must map each kind to a list of wordings, got {type(prompts).__name__}"
        )
    for kind, wordings in prompts.items():
        if (
            isinstance(wordings, str)
            or not wordings
            or not all(isinstance(w, str) and w.strip() for w in wordings)
        ):
            raise SeedPromptError(
                f"seed_prompts={source}: its {kind!r} must be a list of at least one wording"
            )
    return {str(kind): list(wordings) for kind, wordings in prompts.items()}


register_seed_prompts("paper", SEED_PROMPTS)
