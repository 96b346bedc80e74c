"""How many sentences an English text has."""

from __future__ import annotations

import re

# What a full stop belongs to, and does not end a sentence behind; initials ("J. Smith", "J.J. Owen") need no list.
_ABBREVIATIONS = frozenset(
    "al approx ave blvd capt cf cmdr co col corp dept dr e.g est etc fig ft gen gov hon i.e inc jr lt ltd maj mr mrs ms "
    "mt p.m a.m pp prof rep rev sen sgt sr st u.k u.n u.s u.s.a vol vs jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
_MAY_END = frozenset("al etc a.m p.m co corp inc jr ltd sr u.k u.n u.s u.s.a".split())
_END = re.compile(r"(\S*?)([.!?]+|…)[\"'”’)\]}*_]*\s+(?=(\S+))")


def count_sentences(text: str) -> int:
    """Sentences that end with a full stop, an exclamation or a question mark; what is left behind the last one is one too.

    IFEval counts with NLTK's Punkt, whose trained lists are no part of NLTK's package. The rules here are those it comes to: a
    line break alone ends none, a mark ! or ? always does, and a full stop does unless an abbreviation, an initial or a
    lower-case word tells otherwise.
    """
    return sum(map(_ends, _END.finditer(text))) + bool(text.strip())


def _ends(found: re.Match[str]) -> bool:
    word, mark, after = found[1].lower().lstrip("\"'“‘([{*_"), found[2], found[3].lstrip("\"'“‘([{*_")
    if mark.strip(".…"):  # ! or ?
        return True
    if after[:1].islower():
        return False
    if mark != ".":
        return True
    if word in _ABBREVIATIONS:
        return word in _MAY_END and after[:1].isupper()
    return word == "i" or not re.fullmatch(r"([^\W\d_]\.)*[^\W\d_]", word)
