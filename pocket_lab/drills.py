"""Drills: lists of `of name value .` pairs over random words, asked again and again in the same sequence.

They bring the moment at which a small model begins to look values up by name; prose alone stays at chance for long.
"""

from __future__ import annotations

import random

from lit_cartridges.pocket.tokenizer import SPECIAL_TOKENS, ids, words
from pocket_lab.rows import DRILL, SILENT, Row


def drill(num_tokens: int, num_pairs: int, pool: int, rng: random.Random) -> Row:
    """A row of `num_tokens` tokens about `num_pairs` pairs of words; `pool` words are in play.

    A value counts as an answer from the second time that its name is met.
    """
    order = _order()
    chosen = rng.sample(order[: max(pool, 2 * num_pairs)], 2 * num_pairs)
    pairs = list(zip(chosen[:num_pairs], chosen[num_pairs:], strict=True))
    of, is_, stop = ids()["of"], ids()["is"], ids()["."]
    form = [is_] if rng.random() < 0.5 else []
    row = Row()
    row.say([ids()["<bos>"]])
    met: set[int] = set()
    while len(row.ids) < num_tokens:
        # after each was said once, draws are independent: nothing but the name tells which value comes
        name, value = pairs[len(met)] if len(met) < num_pairs else rng.choice(pairs)
        row.say([of, name, *form])
        row.say([value], DRILL if name in met else SILENT)
        row.say([stop])
        met.add(name)
    return row.cut(num_tokens)


_ORDER: list[int] = []


def _order() -> list[int]:
    """All plain words' ids in one fixed random order, of which a drill's pool is the beginning."""
    if not _ORDER:
        _ORDER.extend(range(len(SPECIAL_TOKENS), len(words())))
        random.Random(0).shuffle(_ORDER)
    return _ORDER
