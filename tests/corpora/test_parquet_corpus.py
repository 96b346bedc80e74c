"""Parquet as a corpus: rows in their order, in bounded memory, and errors that name file and column."""

from __future__ import annotations

import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_cartridges.corpora import CorpusError, FolderCorpus, ParquetCorpus, open_corpus


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_a_row_is_a_document_and_nulls_are_told(tmp_path, caplog):
    file = write(tmp_path / "a.parquet", text=["one", None, "two", " "], other=[1, 2, 3, 4])
    corpus = open_corpus(file)
    with caplog.at_level(logging.WARNING):
        assert isinstance(corpus, ParquetCorpus) and corpus.text == "one\n\ntwo"
        assert [document.name for document in corpus.documents()] == [
            "a.parquet[0]",
            "a.parquet[2]",
            "a.parquet[3]",
        ]
    assert [record.getMessage() for record in caplog.records] == [
        f"corpus {file}: left out 1 rows without a text (null)"
    ]


def test_a_folder_of_nothing_else_is_read_in_the_order_of_its_paths(tmp_path):
    write(tmp_path / "b.parquet", text=["second"])
    write(tmp_path / "c" / "a.parquet", text=["third"])
    write(tmp_path / "a.parquet", text=["first"])
    write(tmp_path / ".cache" / "0.parquet", text=["hidden"])
    (tmp_path / ".note").write_text("hidden")
    assert open_corpus(tmp_path).text == "first\n\nsecond\n\nthird"
    (tmp_path / "note.txt").write_text("a text")
    assert isinstance(open_corpus(tmp_path), FolderCorpus)
    assert ParquetCorpus(path=tmp_path).text == "first\n\nsecond\n\nthird"


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b", "a"]),
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"]).dictionary_encode(),
    ],
    ids=["string", "large_string", "dictionary"],
)
def test_text_of_every_kind(tmp_path, column):
    assert ParquetCorpus(path=write(tmp_path / "a.parquet", text=column)).text == "a\n\nb\n\na"


def test_nested_columns_and_names_with_dots(tmp_path):
    nested = pa.array([{"text": "in", "n": 1}, None, {"text": None, "n": 2}])
    file = write(tmp_path / "a.parquet", body=nested, **{"a.b": ["dots"] * 3})
    assert ParquetCorpus(path=file, column="body.text").text == "in"
    assert ParquetCorpus(path=file, column="a.b").text == "\n\n".join(["dots"] * 3)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("body", r"column='body' is not in a.parquet; set column to one of .*: text \(string\), n \(int64\)"),
        ("n", r"column='n' of a.parquet must be text, and is int64; columns of text are text"),
        ("text.more", r"column='text.more' is not in a.parquet; .* nothing"),
        ("empty", r"column='empty' of a.parquet must be text, and is null"),
    ],
)
def test_a_column_that_is_no_text_is_refused(tmp_path, column, message):
    file = write(tmp_path / "a.parquet", text=["a"], n=[1], empty=pa.nulls(1))
    with pytest.raises(CorpusError, match=message):
        _ = ParquetCorpus(path=file, column=column).text


def test_files_and_folders_without_a_text_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="no such file or folder"):
        ParquetCorpus(path=tmp_path / "no.parquet")
    with pytest.raises(CorpusError, match=r"holds no \.parquet file"):
        _ = ParquetCorpus(path=tmp_path).text
    with pytest.raises(CorpusError, match="the corpus is empty; no row has text in column='text'"):
        _ = ParquetCorpus(path=write(tmp_path / "a.parquet", text=[" ", ""])).text
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no Parquet PAR1")
    with pytest.raises(CorpusError, match=r"b\.parquet cannot be read as Parquet"):
        _ = ParquetCorpus(path=tmp_path / "b.parquet").text
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match=r"a\.parquet cannot be read as Parquet"):
        _ = ParquetCorpus(path=tmp_path / "a.parquet").text


def test_a_large_file_is_read_in_bounded_memory(tmp_path):
    file, texts = tmp_path / "a.parquet", [f"{i:06}" * 1000 for i in range(10_000)]
    pq.write_table(pa.table({"text": texts, "other": texts}), file, row_group_size=500, compression="zstd")
    before, most = pa.total_allocated_bytes(), 0
    for number, document in enumerate(ParquetCorpus(path=file).documents()):
        assert document.text == texts[number]
        most = max(most, pa.total_allocated_bytes() - before)
    assert number == len(texts) - 1
    assert most < sum(map(len, texts)) / 4
