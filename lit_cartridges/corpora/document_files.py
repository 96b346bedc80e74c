"""The text of one file, whatever its kind: plain text and code, notebooks, HTML, PDF and Word."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lit_cartridges.corpora.encodings import NotText, decoded
from lit_cartridges.corpora.html_text import html_text
from lit_cartridges.files.content import one_line, parse_json

_EXTRA = "pip install 'lit_cartridges[documents]'"
# Copies of what stands elsewhere in the document, or stood there.
_COPIES = (
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
    "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}moveFrom",
)


def file_text(path: Path, encoding: str, *, mixed: bool = False) -> tuple[str, str]:
    """The text of a file, and a note about what of it is missing ("" where nothing is).

    A PDF is known by its content too, the others by the ends of their names; everything else is read as it stands.

    Args:
        encoding, mixed: see `decoded`.

    Raises:
        NotText: there is no text in it that can be read.
        OSError: the file cannot be read.
    """
    content, suffix = path.read_bytes(), path.suffix.lower()
    if suffix == ".pdf" or content.lstrip().startswith(b"%PDF-"):
        return _pdf(content)
    if suffix == ".docx":
        return _word(content), ""
    if suffix in (".html", ".htm", ".xhtml"):
        return html_text(content, encoding, mixed=mixed), ""
    text = decoded(content, encoding, mixed=mixed)
    return (_notebook(text) if suffix == ".ipynb" and text.strip() else text), ""


def _notebook(text: str) -> str:
    """The sources of its cells, without what they gave out."""
    try:
        content: Any = parse_json(text, strict=False)
        sheets = content.get("worksheets", [content])  # version 3 has its cells in sheets
        cells = [cell for sheet in sheets for cell in sheet.get("cells", [])]
        sources = [cell.get("source", cell.get("input", "")) for cell in cells]
        texts = [source if isinstance(source, str) else "".join(source) for source in sources]
    except (ValueError, TypeError, AttributeError) as error:
        raise NotText("no Jupyter notebook", "save it again, or rename it", one_line(error, 120)) from error
    return "\n\n".join(text.strip("\n") for text in texts if text.strip())


def _pdf(content: bytes) -> tuple[str, str]:
    if find_spec("pypdf") is None:
        raise NotText("a PDF, which needs the extra [documents]", _EXTRA)
    import pypdf

    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise NotText("a PDF with a password", "save it without one")
        pages = [page.extract_text().replace("\0", "").strip() for page in reader.pages]
    except NotText:
        raise
    except Exception as error:  # files of strangers: the library raises far more than its own errors
        raise NotText("a PDF that cannot be read", "save it again", one_line(error, 120)) from error
    blank = sum(not page for page in pages)
    if blank == len(pages):
        raise NotText("a PDF without text (scanned pages?)", "run text recognition on it first")
    note = f"{blank} of {len(pages)} pages have no text (scanned?)" if blank else ""
    return "\n\n".join(page for page in pages if page), note


def _word(content: bytes) -> str:
    if find_spec("docx") is None:
        raise NotText("a Word document, which needs the extra [documents]", _EXTRA)
    import docx

    try:
        body = docx.Document(io.BytesIO(content)).element.body
        return "\n".join(_blocks(body)).strip()
    except Exception as error:
        raise NotText("a Word document that cannot be read", "save it again", one_line(error, 120)) from error


def _blocks(parent: Any) -> Iterator[str]:
    """A line per paragraph and per row of a table, in the document's order, also inside content controls."""
    from docx.oxml.ns import qn
    from docx.text.run import Run

    for child in parent:
        if child.tag == qn("w:p"):
            runs = (
                run for run in child.iter(qn("w:r")) if not any(True for _ in run.iterancestors(*_COPIES))
            )
            yield "".join(Run(run, child).text for run in runs)
        elif child.tag == qn("w:tr"):
            own = (cell for cell in child.iter(qn("w:tc")) if next(cell.iterancestors(child.tag)) is child)
            yield " | ".join(" ".join(_blocks(cell)).strip() for cell in own)
        elif isinstance(child.tag, str):
            yield from _blocks(child)
