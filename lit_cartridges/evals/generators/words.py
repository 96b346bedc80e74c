"""Words that keys and lists are made of, numbers and UUIDs."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from lit_cartridges.optional import require_modules

Kind = Literal["words", "numbers", "uuids"]


@dataclass(frozen=True)
class Words:
    """Words by their part of speech."""

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    verbs: tuple[str, ...]

    @property
    def all(self) -> list[str]:
        """Each once, sorted."""
        return sorted({*self.adjectives, *self.nouns, *self.verbs})

    def drawn(self, kind: Kind, rng: random.Random) -> str:
        """An adjective and a noun, a number of seven digits, or a UUID."""
        if kind == "words":
            return f"{rng.choice(self.adjectives)}-{rng.choice(self.nouns)}"
        if kind == "numbers":
            return str(rng.randrange(10**6, 10**7))
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))


@cache
def wonderwords() -> Words:
    """The lists of the package ``wonderwords``, single words in lower case.

    Raises:
        MissingExtraError: it is not installed.
    """
    require_modules("wonderwords")
    from wonderwords import RandomWord

    chosen, single = RandomWord(), "[a-z]+"
    kinds = (
        chosen.filter(include_parts_of_speech=[k], regex=single) for k in ("adjectives", "nouns", "verbs")
    )
    return Words(*(tuple(sorted(set(kind))) for kind in kinds))


def distinct(draw: Callable[[], str], count: int, taken: set[str] | None = None) -> list[str]:
    """``count`` draws, none of them twice or among ``taken``, to which they are added."""
    taken = set() if taken is None else taken
    found: list[str] = []
    while len(found) < count:
        one = draw()
        if one not in taken:
            taken.add(one)
            found.append(one)
    return found
