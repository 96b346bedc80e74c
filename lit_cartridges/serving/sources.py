"""What taught an answer: the recorded conversations that are nearest to it, with the chunks that they are about.

Near is having words in common, rare ones before frequent ones: the cosine of TF-IDF vectors of question and answer. It points to
what the cartridge was taught, and so to a passage that can be checked; it proves nothing.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from lit_cartridges.conversations.conversation import Conversation, ConversationError
from lit_cartridges.conversations.parquet import read_conversations
from lit_cartridges.conversations.tokenizer_check import RecordingError
from lit_cartridges.serving.shelf import Shelf, Shelved, Stamp

_log = logging.getLogger(__name__)
_RECORDING = "recording"  # beside a run's cartridge
_MOST_FILES, _MOST_CONVERSATIONS, _MOST_CARTRIDGES = 256, 5000, 8
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A recorded conversation near an answer.

    Args:
        nearness: 0 to 1.
        chunk: the text that the teacher had in front of it.
        chunk_start_token: where that begins in the corpus, if it is known.
    """

    cartridge: str
    nearness: float
    question: str
    answer: str
    chunk: str
    chunk_start_token: int | None


class Recorded:
    """Conversations that can be searched."""

    def __init__(self, name: str, conversations: Iterable[Conversation]) -> None:
        self._known, self._at = [], defaultdict[str, list[tuple[int, float]]](list)
        counts = []
        for one in conversations:
            question, answer = one.messages[0].content, one.messages[1].content
            start = one.metadata.get("chunk_start_token")
            self._known.append(
                (name, question, answer, one.system_prompt, start if isinstance(start, int) else None)
            )
            counts.append(_words(f"{question} {answer}"))
        held = Counter(word for count in counts for word in count)
        self._rarity = {word: 1 + math.log(len(counts) / among) for word, among in held.items()}
        for at, count in enumerate(counts):
            for word, weight in self._vector(count).items():
                self._at[word].append((at, weight))

    def nearest(self, text: str, most: int) -> list[Source]:
        """The nearest ones, the nearest first, none of a chunk twice."""
        scores: Counter[int] = Counter()
        for word, weight in self._vector(_words(text)).items():
            for at, other in self._at[word]:
                scores[at] += weight * other  # type: ignore[assignment]
        found: dict[str, Source] = {}
        for at, score in scores.most_common():
            name, question, answer, chunk, start = self._known[at]
            if chunk not in found:
                found[chunk] = Source(
                    cartridge=name,
                    nearness=round(min(1.0, score), 3),
                    question=question,
                    answer=answer,
                    chunk=chunk,
                    chunk_start_token=start,
                )
            if len(found) == most:
                break
        return list(found.values())

    def _vector(self, count: Counter[str]) -> dict[str, float]:
        weights = {word: n * self._rarity[word] for word, n in count.items() if word in self._rarity}
        length = math.sqrt(sum(x * x for x in weights.values()))
        return {word: x / length for word, x in weights.items()} if length else {}


class Sources:
    """Of the cartridges of a shelf whose runs have left recordings beside them; threads may share one."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._read: OrderedDict[tuple[str, Stamp], Recorded] = OrderedDict()
        self._lock = Lock()

    def nearest(self, names: Sequence[str], text: str, *, most: int = 3) -> list[dict[str, Any]]:
        """The sources nearest to ``text`` of all these cartridges.

        Raises:
            Refusal: one of them is not there.
        """
        found = [source for name in names for source in self._of(self.shelf.find(name)).nearest(text, most)]
        found.sort(key=lambda source: -source.nearness)
        return [asdict(source) for source in found[:most]]

    def _of(self, one: Shelved) -> Recorded:
        key = one.name, one.stamp
        with self._lock:
            if key not in self._read:
                self._read[key] = Recorded(one.name, self._conversations(one))
                while len(self._read) > _MOST_CARTRIDGES:
                    self._read.popitem(last=False)
            self._read.move_to_end(key)
            return self._read[key]

    def _conversations(self, one: Shelved) -> Iterator[Conversation]:
        """Those about the cartridge's own corpus; fewer where a file cannot be read, and of long recordings."""
        folder = (one.folder.parent / _RECORDING).resolve()
        inside = folder.is_relative_to(self.shelf.folder)
        if one.folder.name != "cartridge" or not inside or not folder.is_dir():
            return
        files = [file for file in sorted(folder.glob("*.parquet")) if file.resolve().parent == folder]
        count = 0
        for file in _spread(files, _MOST_FILES):
            try:
                found = [c for c in read_conversations(file) if _is_about(c, one.facts.corpus_sha256)]
            except (ConversationError, RecordingError, OSError) as error:
                _log.warning("%s", self.shelf.plainly(error))
                continue
            yield from found
            if (count := count + len(found)) >= _MOST_CONVERSATIONS:
                return


def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.lower()))


def _spread(files: Sequence[Path], most: int) -> list[Path]:
    return [files[at * len(files) // min(len(files), most)] for at in range(min(len(files), most))]


def _is_about(conversation: Conversation, corpus_sha256: str) -> bool:
    known = conversation.metadata.get("corpus_sha256", corpus_sha256)
    return len(conversation.messages) > 1 and conversation.type == "self_study" and known == corpus_sha256
