"""Bytes as text: byte order marks, the encoding that was asked for, and what else the bytes look like."""

from __future__ import annotations

import codecs
import re

from lit_cartridges.files.content import one_line

# UTF-32 in front, since the little-endian mark of UTF-16 opens that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What may be all ASCII and still is no text to study.
_KINDS = (
    (b"{\\rtf", "an RTF document", "save it as .txt or .docx"),
    (b"PK\x03\x04", "binary (a ZIP archive, an Office document or an EPUB)", "unpack it, or save it as text"),
    (b"\x1f\x8b", "binary (compressed by gzip)", "unpack it"),
    (b"PAR1", "binary (Parquet)", "read it by ParquetCorpus"),
    (b"\xd0\xcf\x11\xe0", "binary (an old Office document)", "save it as .docx"),
    (
        b"version https://git-lfs.github.com/",
        "a pointer of Git LFS without its content",
        "run `git lfs pull`",
    ),
)
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_PROBE_BYTES = 65536
_MOST_CONTROLS = 0.02  # of the bytes; text has next to none, compressed data an eighth
_MOST_NOT_ASCII = 0.3  # of the bytes, in languages of western Europe


class NotText(Exception):
    """A file without text that can be read.

    Args:
        reason: what it is, without its name; files of one reason are counted together.
        mend: what the user may do.
        detail: more on this one file.
    """

    def __init__(self, reason: str, mend: str, detail: str = "") -> None:
        self.reason, self.mend, self.detail = reason, mend, detail
        super().__init__(f"{reason}{f' ({detail})' if detail else ''}; {mend}")


def decoded(content: bytes, encoding: str, *, mixed: bool = False) -> str:
    """The text of `content`, with line breaks as "\\n". A byte order mark counts more than `encoding`.

    Args:
        mixed: `encoding` is for what is no UTF-8, as in a folder whose files have several encodings.

    Raises:
        NotText: it is binary, or text of another encoding, which is named where the bytes tell it.
    """
    for opening, kind, mend in _KINDS:
        if content.startswith(opening):
            raise NotText(kind, mend)
    mark = next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), None)
    if mark:
        encoding = mark[1]
    elif mixed and _NOT_ASCII.search(content) and b"\0" not in content and _decodes(content, "utf-8"):
        encoding = "utf-8"
    try:
        text = content.decode(encoding)
    except (UnicodeError, LookupError) as error:
        raise _not_text(content, encoding, one_line(error, 120)) from error
    if "\0" in text:
        raise _not_text(content, encoding, "null characters")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def likely_encoding(content: bytes) -> str | None:
    """What bytes that are no UTF-8 look like, or None: of another encoding than these, or no text."""
    probe = content[:_PROBE_BYTES]
    for name, nulls in (("utf-16-le", probe[1::2]), ("utf-16-be", probe[::2])):
        if probe.count(0) > 0.6 * len(nulls) and nulls.count(0) == probe.count(0) and _decodes(content, name):
            return name
    if len(_CONTROLS.findall(probe)) > _MOST_CONTROLS * len(probe) or b"\0" in content:
        return None
    if len(_NOT_ASCII.findall(probe)) > max(_MOST_NOT_ASCII * len(probe), 1):
        return None
    return "cp1252" if _decodes(content, "cp1252") else "latin-1"


def _not_text(content: bytes, encoding: str, detail: str) -> NotText:
    likely = likely_encoding(content)
    if likely is not None and likely != encoding:
        reason = f"not text in encoding={encoding!r} but, it seems, in {likely}"
        return NotText(reason, f"set encoding to {likely!r}", detail)
    probe = content[:_PROBE_BYTES]
    if b"\0" in content or len(_CONTROLS.findall(probe)) > _MOST_CONTROLS * len(probe):
        return NotText("binary", "give a text file", detail)
    mend = "set encoding to the file's (perhaps cp1251, gb18030, shift_jis, euc_kr or big5)"
    return NotText(f"not text in encoding={encoding!r}", mend, detail)


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeError:
        return False
    return True
