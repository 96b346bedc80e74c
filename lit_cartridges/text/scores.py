"""How near a reply comes to a reference text: 0 to 1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from lit_cartridges.optional import require_modules

_DROPPED = str.maketrans("", "", string.punctuation)


def token_f1(reply: str, reference: str) -> float:
    """`words_f1` as SQuAD has it (arXiv 1606.05250), and LongBench and QASPER use it.

    Case, punctuation and the articles a, an, the do not matter.
    """
    return words_f1(_words(reply), _words(reference))


def words_f1(said: Sequence[str], right: Sequence[str]) -> float:
    """F1 of the words in common, counted as often as they occur."""
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right)) if common else 0.0


def rouge(reply: str, reference: str, kind: str, *, stemmed: bool = False) -> float:
    """ROUGE's F1 by the package rouge-score.

    Args:
        kind: "rouge1", "rouge2", "rougeL" (longest common subsequence of the whole), "rougeLsum" (of lines).
        stemmed: words are alike that have one Porter stem.

    Raises:
        MissingExtraError: the package is not installed.
    """
    return float(_scorer(kind, stemmed).score(reference, reply)[kind].fmeasure)


@cache
def _scorer(kind: str, stemmed: bool) -> Any:
    require_modules("rouge_score")
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=stemmed)


def _words(text: str) -> list[str]:
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_DROPPED)).split()
