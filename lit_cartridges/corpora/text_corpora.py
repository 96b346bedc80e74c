"""Corpora of plain text, Markdown and whole folders."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lit_cartridges.corpora.corpus import Corpus, CorpusError, Document
from lit_cartridges.settings import checked

_log = logging.getLogger(__name__)
_FOLDER_PATTERNS = (
    "*.txt",
    "*.md",
    "*.rst",
    "*.tex",
    "*.html",
    "*.csv",
    "*.py",
    "*.c",
    "*.cpp",
    "*.h",
    "*.js",
    "*.java",
)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_TOP_HEADING = re.compile(r" {0,3}#(?:[ \t]+(?P<title>.*?)[ \t#]*)?$")
_BINARY_PROBE_BYTES = 8192


class TextCorpus(Corpus):
    """One text file, one document."""

    @checked
    def __init__(self, *, path: str | Path, encoding: str = "utf-8") -> None:
        """
        Args:
            path: the file.
            encoding: its character encoding.
        """
        super().__init__(path)
        self.encoding = encoding

    def documents(self) -> Iterator[Document]:
        yield Document(self.path.name, self._read(self.path, self.encoding))


class FolderCorpus(Corpus):
    """The files below a folder that match a pattern, sorted by path; hidden and binary ones are skipped."""

    @checked
    def __init__(
        self, *, path: str | Path, patterns: Sequence[str] = _FOLDER_PATTERNS, encoding: str = "utf-8"
    ) -> None:
        """
        Args:
            path: the folder.
            patterns: file name patterns such as "*.md"; a file that matches several is read once.
            encoding: the files' character encoding.
        """
        super().__init__(path)
        if not self.path.is_dir():
            raise CorpusError(
                f"path={str(self.path)!r} is no folder; give one, or read the file with TextCorpus"
            )
        self.patterns, self.encoding = tuple(patterns), encoding

    @property
    def empty_hint(self) -> str:
        return (
            f"no file with text in it matches patterns={list(self.patterns)}, set patterns to what is there"
        )

    def documents(self) -> Iterator[Document]:
        found = {path for pattern in self.patterns for path in self.path.rglob(pattern) if path.is_file()}
        for path in sorted(found, key=lambda path: path.relative_to(self.path).as_posix()):
            name = path.relative_to(self.path)
            if any(part.startswith(".") for part in name.parts):
                continue
            with path.open("rb") as file:
                binary = b"\0" in file.read(_BINARY_PROBE_BYTES)
            if binary:
                _log.info("%s is binary and left out of the corpus", path)
                continue
            try:
                yield Document(name.as_posix(), self._read(path, self.encoding))
            except CorpusError as error:
                _log.info("%s; left out of the corpus", error)


class MarkdownCorpus(Corpus):
    """A Markdown file, one document per top-level heading (`# …`); front matter between `---` lines is dropped."""

    @checked
    def __init__(self, *, path: str | Path, encoding: str = "utf-8") -> None:
        """
        Args:
            path: the file.
            encoding: its character encoding.
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
