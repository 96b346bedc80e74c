"""The corpus in equal parts, and what the conversations about each of them tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.report.chunk_scores import ChunkScore, place_of

_MOST_PARTS, _FEWEST_TOKENS = 60, 16


@dataclass(frozen=True, kw_only=True)
class CorpusPart:
    """A span of the corpus.

    Args:
        start_token, num_tokens: where it is.
        num_conversations: whose chunk holds some of it.
        loss: nats per answer token that the cartridge lost on the scored ones of them, weighted by how much of it each holds.
        text: about what it says, cut out of a chunk by its share of the chunk's characters; empty where no chunk holds it.
    """

    start_token: int
    num_tokens: int
    num_conversations: int
    loss: float | None
    text: str


def corpus_parts(
    conversations: Sequence[Conversation],
    scores: Sequence[ChunkScore],
    *,
    corpus_tokens: int | None,
    corpus_sha256: str = "",
    system_template: str = "{chunk}",
) -> tuple[CorpusPart, ...]:
    """The corpus in at most 60 parts; nothing where no conversation says which chunk it is about.

    Args:
        corpus_tokens: the corpus's length; by default as far as the chunks reach.
        corpus_sha256: conversations about another corpus do not count.
        system_template: what stands around a chunk in the recorded system prompt.
    """
    chunks = list(_chunks(conversations, corpus_sha256, system_template))
    total = corpus_tokens or max((start + tokens for start, tokens, _ in chunks), default=0)
    if not chunks or not total:
        return ()
    count = max(1, min(_MOST_PARTS, total // _FEWEST_TOKENS))
    edges = [i * total // count for i in range(count + 1)]
    parts = []
    for start, end in zip(edges, edges[1:], strict=False):
        holding = [chunk for chunk in chunks if _overlap(start, end, chunk[0], chunk[1])]
        weighted = [(_overlap(start, end, s.start_token, s.num_tokens), s.loss) for s in scores]
        weight = sum(one for one, _ in weighted)
        parts.append(
            CorpusPart(
                start_token=start,
                num_tokens=end - start,
                num_conversations=len(holding),
                loss=sum(one * loss for one, loss in weighted) / weight if weight else None,
                text=_text(start, end, max(holding, key=lambda c: _overlap(start, end, c[0], c[1])))
                if holding
                else "",
            )
        )
    return tuple(parts)


def _chunks(
    conversations: Iterable[Conversation], sha256: str, template: str
) -> Iterable[tuple[int, int, str]]:
    before, _, after = template.partition("{chunk}")
    for one in conversations:
        place, about = place_of(one), one.metadata.get("corpus_sha256", "")
        if place is not None and (not sha256 or about in ("", sha256)):
            yield *place, one.system_prompt.removeprefix(before).removesuffix(after)


def _overlap(start: int, end: int, chunk_start: int, chunk_tokens: int) -> int:
    return max(0, min(end, chunk_start + chunk_tokens) - max(start, chunk_start))


def _text(start: int, end: int, chunk: tuple[int, int, str]) -> str:
    chunk_start, tokens, text = chunk
    first, last = ((at - chunk_start) * len(text) // tokens for at in (start, end))
    first, last = max(0, first), min(len(text), last)
    # Whole words: from behind the blank in front, to the blank behind.
    first = text.rfind(" ", 0, first) + 1 if first else 0
    last = len(text) if (blank := text.find(" ", last)) < 0 else blank
    return text[first:last].strip()
