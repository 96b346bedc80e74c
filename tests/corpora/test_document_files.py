from __future__ import annotations

import io
import json

import pytest

from lit_cartridges.corpora import CorpusError, FolderCorpus, TextCorpus, open_corpus
from lit_cartridges.corpora.encodings import likely_encoding


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("Grüße\r\n".encode(encoding))
    (tmp_path / "a.json").write_bytes('["Grüße"]'.encode(encoding))
    assert open_corpus(tmp_path / "a.txt").text == open_corpus(tmp_path / "a.json").text == "Grüße"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Der Bär läuft über die Brücke", "cp1252"),
        ("é", "cp1252"),
        ("Ein l\xe4ngeres caf\xe9 \x81", "latin-1"),
        ("plain words, and more of them", "utf-16-le"),
        ("plain words, and more of them", "utf-16-be"),
    ],
)
def test_a_likely_encoding_is_named_and_works(tmp_path, text, encoding):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(
        CorpusError, match=f"encoding='utf-8' but, it seems, in {encoding}.*set encoding to '{encoding}'"
    ):
        _ = open_corpus(tmp_path / "a.txt").text
    assert TextCorpus(path=tmp_path / "a.txt", encoding=encoding).text == text


def test_an_encoding_that_the_bytes_do_not_tell_is_not_guessed(tmp_path):
    (tmp_path / "a.txt").write_bytes("Всё это по-русски".encode("cp1251"))
    with pytest.raises(CorpusError, match="not text in encoding='utf-8'.*perhaps cp1251"):
        _ = open_corpus(tmp_path / "a.txt").text
    assert likely_encoding(bytes(range(256)) * 9) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"a\0b\0\0", "binary"),
        ("a.txt", b"PK\x03\x04 all ascii", "ZIP archive.*unpack it"),
        ("a.gz", b"\x1f\x8b\x08", "compressed by gzip"),
        ("a.parquet", b"PAR1 PAR1", "Parquet"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1", "old Office document.*save it as .docx"),
        ("a.rtf", b"{\\rtf1 words}", "an RTF document"),
        ("a.bin", b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
        ("a.pdf", b"%PDF-1.7 broken", "a PDF that cannot be read"),
        ("a.txt", b"%PDF-1.7 broken", "a PDF that cannot be read"),
        ("a.docx", b"PK\x03\x04 broken", "a Word document that cannot be read"),
        ("a.ipynb", b"[1]", "no Jupyter notebook"),
        ("a.ipynb", b'{"cells": [{"source": 3}]}', "no Jupyter notebook"),
        ("a.ipynb", b"{", "no Jupyter notebook"),
    ],
)
def test_what_is_no_text_is_refused_by_its_kind(tmp_path, name, content, message):
    if "PDF" in message:
        pytest.importorskip("pypdf")
    if "Word" in message:
        pytest.importorskip("docx")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        _ = open_corpus(tmp_path / name).text
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_notebook_is_its_cells_sources(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Bees\n", "Mira keeps them."]},
        {"cell_type": "code", "source": "x = 1\n", "outputs": [{"text": "not this"}]},
        {"cell_type": "code", "source": []},
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    (tmp_path / "old.ipynb").write_text(json.dumps({"worksheets": [{"cells": [{"input": ["y = 2"]}]}]}))
    assert open_corpus(tmp_path / "a.ipynb").text == "# Bees\nMira keeps them.\n\nx = 1"
    assert FolderCorpus(path=tmp_path).text.endswith("x = 1\n\ny = 2")


def test_a_page_is_what_its_reader_sees(tmp_path):
    (tmp_path / "a.html").write_text(
        "<!doctype html><html><head><title>The bees</title><style>p { x: y }</style><script>let a = '<p>no'</script>"
        "<body><h1>Of   <b>Mi</b>ra</h1>\n<p>Bees &amp; ants\nwork.<br>Always.<!-- no --><ul><li>one<li>two</ul>"
        "<table><tr><th>k</th><th>v</th></tr><tr><td>1</td><td>2</td></tr></table><pre>def f():\n    pass</pre>end"
    )
    assert open_corpus(tmp_path / "a.html").text == (
        "The bees\n\nOf Mira\n\nBees & ants work.\nAlways.\n\none\ntwo\n\nk | v\n1 | 2\n\ndef f():\n    pass\n\nend"
    )


def test_a_page_may_declare_its_encoding(tmp_path):
    (tmp_path / "a.HTM").write_bytes("<meta charset=windows-1252><p>café".encode("cp1252"))
    assert open_corpus(tmp_path / "a.HTM").text == FolderCorpus(path=tmp_path).text == "café"


def _pdf(*pages: str) -> bytes:
    """A PDF of those lines, one page each, written by hand."""
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    for i, line in enumerate(pages):
        font = "<< /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {4 + 2 * i} 0 R /Resources {font} >>"
        )
        drawn = f"BT /F 12 Tf 72 720 Td ({line}) Tj ET" if line else ""
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    out, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    out += f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(places) + 1} /Root 1 0 R >>\n"
    return (out + f"startxref\n{out.index('xref')}\n%%EOF\n").encode()


def test_a_pdf_is_its_pages(tmp_path, caplog):
    pypdf = pytest.importorskip("pypdf")
    (tmp_path / "a.PDF").write_bytes(_pdf("Mira keeps bees.", "", "She sells honey."))
    assert open_corpus(tmp_path / "a.PDF").text == "Mira keeps bees.\n\nShe sells honey."
    assert "1 of 3 pages have no text (scanned?)" in caplog.text
    (tmp_path / "scan.pdf").write_bytes(_pdf("", ""))
    with pytest.raises(CorpusError, match="scan.pdf.*a PDF without text"):
        _ = open_corpus(tmp_path / "scan.pdf").text
    writer = pypdf.PdfWriter(clone_from=tmp_path / "a.PDF")
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "shut.pdf")
    with pytest.raises(CorpusError, match="shut.pdf.*a PDF with a password"):
        _ = open_corpus(tmp_path / "shut.pdf").text
    caplog.clear()
    assert [document.name for document in FolderCorpus(path=tmp_path).documents()] == ["a.PDF"]
    assert (
        "(a.PDF): in part: 1 of 3 pages" in caplog.text and "(shut.pdf): a PDF with a password" in caplog.text
    )


def test_a_word_document_is_its_paragraphs_and_tables_in_order(tmp_path):
    docx = pytest.importorskip("docx")
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    document = docx.Document()
    document.add_heading("Bees", 1)
    document.add_paragraph("Mira keeps ").add_run("bees.").bold = True
    table = document.add_table(rows=2, cols=2)
    for i, word in enumerate(["k", "v", "1", "2"]):
        table.cell(i // 2, i % 2).text = word
    inner = table.cell(1, 1).add_table(rows=1, cols=2)
    inner.cell(0, 0).text, inner.cell(0, 1).text = "x", "y"
    run = "<w:r><w:t>{}</w:t></w:r>"
    for part in (
        f"<w:sdt {nsdecls('w')}><w:sdtContent><w:p>{run.format('In a control.')}</w:p></w:sdtContent></w:sdt>",
        f"<w:p {nsdecls('w')}><w:ins>{run.format('Added')}</w:ins><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>",
    ):
        document.element.body.insert(len(document.element.body) - 1, parse_xml(part))
    document.add_paragraph("The end.")
    held = io.BytesIO()
    document.save(held)
    (tmp_path / "a.docx").write_bytes(held.getvalue())
    expected = "Bees\nMira keeps bees.\nk | v\n1 | 2 x | y\nIn a control.\nAdded\nThe end."
    assert open_corpus(tmp_path / "a.docx").text == FolderCorpus(path=tmp_path).text == expected


@pytest.mark.parametrize(("name", "library"), [("a.pdf", "pypdf"), ("a.docx", "docx")])
def test_without_the_extra_it_is_named(tmp_path, monkeypatch, name, library, caplog):
    monkeypatch.setattr(
        "lit_cartridges.corpora.document_files.find_spec", lambda name: None if name == library else object()
    )
    (tmp_path / name).write_bytes(_pdf("text") if name == "a.pdf" else b"PK\x03\x04")
    with pytest.raises(
        CorpusError, match=r"needs the extra \[documents\]; pip install 'lit_cartridges\[documents\]'"
    ):
        _ = open_corpus(tmp_path / name).text
    (tmp_path / "b.txt").write_text("text")
    assert FolderCorpus(path=tmp_path).text == "text"
    assert f"({name}): a " in caplog.text and "lit_cartridges[documents]" in caplog.text
