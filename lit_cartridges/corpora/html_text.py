"""The text of an HTML page, as a reader sees it: no tags, scripts or styles; paragraphs apart."""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser

from lit_cartridges.corpora.encodings import NotText, decoded

_UNSEEN = frozenset({"script", "style", "noscript", "template"})
_PARAGRAPHS = frozenset(
    "address article aside blockquote details dl fieldset figure footer form h1 h2 h3 h4 h5 h6 header hr main nav ol p pre "
    "section table title ul".split()
)
_LINES = frozenset("br caption dd div dt figcaption legend li option summary tr".split())
_CELLS = frozenset({"td", "th"})
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_DECLARED_WITHIN_BYTES = 1024  # as the HTML standard has it


def html_text(content: bytes, encoding: str, *, mixed: bool = False) -> str:
    """What the page says. Where it is not in `encoding`, the page's own declaration counts.

    Raises:
        NotText: it is no text.
    """
    try:
        page = decoded(content, encoding, mixed=mixed)
    except NotText:
        declared = _DECLARED.search(content[:_DECLARED_WITHIN_BYTES])
        if not declared or not _known(name := declared[1].decode("ascii", "replace")):
            raise
        page = decoded(content, name)
    reader = _Reader()
    reader.feed(page)
    reader.close()
    lines = (line.rstrip() for line in "".join(reader.pieces).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unseen: list[str] = []
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        self._preformatted += tag == "pre"
        self._break(tag)
        if tag in _CELLS and self.pieces and not self.pieces[-1].endswith("\n"):
            self.pieces.append(" | ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        self._preformatted -= tag == "pre" and self._preformatted > 0
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if not self._preformatted:
            data = re.sub(r"[ \t\n\f\r]+", " ", data)
            if not self.pieces or self.pieces[-1].endswith(("\n", " ")):
                data = data.lstrip(" ")
        if data:
            self.pieces.append(data)

    def _break(self, tag: str) -> None:
        if self._unseen or not self.pieces:
            return
        if tag in _PARAGRAPHS:
            self.pieces.append("\n\n")
        elif tag in _LINES and (tag == "br" or not self.pieces[-1].endswith("\n")):
            self.pieces.append("\n")


def _known(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding) is not None
    except LookupError:
        return False
