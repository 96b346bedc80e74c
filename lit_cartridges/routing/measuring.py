"""How often a router is right, beside the entropy gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_cartridges.routing.embedding import QuestionEmbedder
from lit_cartridges.routing.entropy_gate import first_token_entropies
from lit_cartridges.routing.router import Router, conformal_threshold
from lit_cartridges.terminal import printable_line

if TYPE_CHECKING:
    from lit_cartridges.cartridge import Cartridge


@dataclass(frozen=True, kw_only=True)
class Routed:
    """What became of some questions.

    Args:
        on_corpus: whether the cartridge should be read; it is right then to read it.
        router, gate: shares of right decisions, 0 to 1.
    """

    questions: str
    on_corpus: bool
    asked: int
    router: float
    gate: float


def measure(
    router: Router,
    embedder: QuestionEmbedder,
    cartridge: Cartridge,
    negatives: Sequence[str],
    sets: Mapping[str, tuple[bool, Sequence[str]]],
) -> list[Routed]:
    """
    Args:
        negatives: that the router's threshold is from, from which the gate gets its own.
        sets: by name, whether questions are about the corpus, and the questions.
    """

    def certain(texts: Sequence[str]) -> list[float]:
        entropies = first_token_entropies(embedder.model, cartridge, embedder.renderer, texts)
        return [-entropy for entropy in entropies.tolist()]

    gate = conformal_threshold(certain(negatives), router.alpha)
    rows = []
    for name, (on_corpus, texts) in sets.items():
        if not texts:
            continue
        scores = router.scores(embedder.embed_questions(texts, router.layer)).tolist()
        right = [
            sum((score > threshold) == on_corpus for score in known) / len(texts)
            for known, threshold in ((scores, router.threshold), (certain(texts), gate))
        ]
        rows.append(
            Routed(questions=name, on_corpus=on_corpus, asked=len(texts), router=right[0], gate=right[1])
        )
    return rows


def text_table(rows: Sequence[Routed]) -> str:
    """For the terminal, and for Markdown: shares of right decisions with their binomial standard errors."""
    cells = [("questions", "right is", "asked", "router right", "entropy gate right")]
    cells += [
        (
            printable_line(row.questions).replace("|", "/"),
            "with it" if row.on_corpus else "without it",
            f"{row.asked:,}",
            _share(row.router, row.asked),
            _share(row.gate, row.asked),
        )
        for row in rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _share(share: float, asked: int) -> str:
    return f"{100 * share:.1f} ± {100 * (share * (1 - share) / asked) ** 0.5:.1f} %"
