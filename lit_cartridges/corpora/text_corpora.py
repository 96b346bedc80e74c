"""Corpora of one file: text of any kind, and Markdown by its headings."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from lightning.fabric.utilities.rank_zero import rank_zero_only

from lit_cartridges.corpora.corpus import Corpus, Document
from lit_cartridges.corpora.document_files import file_text
from lit_cartridges.settings import checked
from lit_cartridges.terminal import printable_line

_tell = rank_zero_only(logging.getLogger(__name__).warning)

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_TOP_HEADING = re.compile(r" {0,3}#(?:[ \t]+(?P<title>.*?)[ \t#]*)?$")


class TextCorpus(Corpus):
    """One file, one document: text and code as they stand, the text of .ipynb, .html, .pdf and .docx."""

    @checked
    def __init__(self, *, path: str | Path, encoding: str = "utf-8") -> None:
        """
        Args:
            path: the file.
            encoding: its character encoding, where no byte order mark says it.
        """
        super().__init__(path)
        self.encoding = encoding

    def documents(self) -> Iterator[Document]:
        yield Document(self.path.name, self._text_of_file())

    def _text_of_file(self) -> str:
        with self._refused(self.path):
            text, note = file_text(self.path, self.encoding)
        if note:
            _tell("corpus %s: %s", printable_line(self.path), note)
        return text


class MarkdownCorpus(Corpus):
    """A Markdown file, one document per top-level heading (`# …`); front matter between `---` lines is dropped."""

    suffixes: ClassVar[tuple[str, ...]] = (".md", ".markdown")

    @checked
    def __init__(self, *, path: str | Path, encoding: str = "utf-8") -> None:
        """
        Args:
            path: the file.
            encoding: its character encoding, where no byte order mark says it.
        """
        super().__init__(path)
        self.encoding = encoding

    def documents(self) -> Iterator[Document]:
        title, fence = self.path.name, ""
        lines: list[str] = []
        for line in _without_front_matter(self._read(self.path, self.encoding)).splitlines():
            mark = _FENCE.match(line)
            if mark and not fence:
                fence = mark[1]
            elif mark and mark[1].startswith(fence):
                fence = ""
            # A `#` inside a code block is a comment, not a heading.
            heading = None if fence or mark else _TOP_HEADING.match(line)
            if heading:
                yield from _section(title, lines)
                title, lines = heading["title"] or self.path.name, []
            lines.append(line)
        yield from _section(title, lines)


def _section(title: str, lines: Sequence[str]) -> Iterator[Document]:
    text = "\n".join(lines).strip()
    if text:
        yield Document(title, text)


def _without_front_matter(text: str) -> str:
    lines = text.split("\n")
    if lines[0].rstrip() == "---":
        for number, line in enumerate(lines[1:], start=1):
            if line.rstrip() in ("---", "..."):
                return "\n".join(lines[number + 1 :])
    return text
