"""Data sets of the Hub: the right files of the right split, and what is wrong with the others, from a server of our own."""

from __future__ import annotations

import hashlib
import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_cartridges.corpora import CorpusError, HubDataset, open_corpus
from lit_cartridges.data import SelfStudyDataModule
from lit_cartridges.errors import SettingError
from tests.corpora.hub_server import hub
from tests.documented import run


def parquet(*texts, column="text") -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(texts))), column: list(texts)}), out)
    return out.getvalue()


CONVERTED = {
    "default/train/0001.parquet": parquet("third"),
    "default/train/0000.parquet": parquet("first", None, "second"),
    "default/test/0000.parquet": parquet("a test"),
}
REPOSITORIES = {
    "them/converted": {"refs/convert/parquet": CONVERTED, "main": {"data.csv": b"text\nfirst\n"}},
    "them/configs": {
        "refs/convert/parquet": {
            "de/train/0000.parquet": parquet("eins"),
            "en/partial-train/0000.parquet": parquet("one"),
        }
    },
    "them/own": {
        "main": {
            "README.md": b"#",
            "data/train-00000-of-00001.parquet": parquet("own", column="body"),
            "data/validation-00000-of-00001.parquet": parquet("valid", column="body"),
        },
        "v2": {"data/train-00000-of-00001.parquet": parquet("newer")},
    },
    "them/pictures": {"main": {"a.png": b"x"}},
    "them/secret": {},
}
ASKED = {
    "hf://datasets/them/converted": None,
    "hf://datasets/them/converted:test": None,
    "hf://datasets/them/converted:dev": None,
    "hf://datasets/them/configs": None,
    "hf://datasets/them/configs/de": None,
    "hf://datasets/them/configs/en:train": None,
    "hf://datasets/them/own": {"column": "body"},
    "hf://datasets/them/own:train": {"column": "text"},
    "hf://datasets/them/own:v2": {"name": "them/own", "revision": "v2"},
    "hf://datasets/them/own:v3": {"name": "them/own", "revision": "v3"},
    "hf://datasets/them/pictures": None,
    "hf://datasets/them/secret": None,
    "hf://datasets/them/nothing": None,
}
SCRIPT = """
import json, sys
from lit_cartridges.corpora import CorpusError, HubDataset, open_corpus
for address, options in json.loads(sys.argv[1]).items():
    try:
        if options is None:
            corpus = open_corpus(address)
        elif "name" in options:
            corpus = HubDataset(**options)
        else:
            corpus = open_corpus(address, field=options["column"])
        print(json.dumps([address, corpus.text, corpus.sha256]))
    except CorpusError as error:
        print(json.dumps([address, str(error), ""]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, tuple[str, str]]:
    """What each address gives, in a process of its own, where huggingface_hub may use the network."""
    folder = tmp_path_factory.mktemp("hub")
    with hub(REPOSITORIES, gated=("them/secret",)) as address:
        variables = {
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(folder),
            "HF_HUB_DISABLE_XET": "1",
        }
        out = run(folder, sys.executable, "-c", SCRIPT, json.dumps(ASKED), **variables)
    return {address: (text, digest) for address, text, digest in map(json.loads, out.splitlines())}


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("hf://datasets/them/converted", "first\n\nsecond\n\nthird"),
        ("hf://datasets/them/converted:test", "a test"),
        ("hf://datasets/them/configs/de", "eins"),
        ("hf://datasets/them/configs/en:train", "one"),
        ("hf://datasets/them/own", "own"),
        ("hf://datasets/them/own:v2", "newer"),
    ],
)
def test_the_text_of_a_split(told, address, text):
    assert told[address] == (text, hashlib.sha256(text.encode()).hexdigest())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://datasets/them/converted:dev", "split='dev': set it to one of test, train"),
        ("hf://datasets/them/configs", "config=None: set it to one of de, en"),
        (
            "hf://datasets/them/own:train",
            "column='text' is not in data/train-00000-of-00001.parquet; set column to one",
        ),
        ("hf://datasets/them/own:v3", "has no revision='v3'"),
        ("hf://datasets/them/pictures", "has no Parquet files"),
        ("hf://datasets/them/secret", "is gated: accept its terms on the Hub, and set HF_TOKEN"),
        ("hf://datasets/them/nothing", "is not on the Hub, or private"),
    ],
)
def test_what_is_wrong_is_named(told, address, message):
    text, digest = told[address]
    assert message in text and "\n" not in text and not digest


def test_without_a_network_it_is_refused():
    with pytest.raises(
        CorpusError, match=r"them/set' cannot be fetched .*; give a folder of its Parquet files"
    ):
        _ = HubDataset(name="them/set").text


@pytest.mark.parametrize("address", ["hf://datasets/squad", "hf://models/a/b", "hf://datasets/a/b:c:d"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(CorpusError, match="must be hf://datasets/OWNER/NAME"):
        open_corpus(address)
    with pytest.raises(SettingError, match="corpus='.*' must be hf://datasets/OWNER/NAME"):
        SelfStudyDataModule(corpus=address)


def test_the_data_module_takes_an_address_and_asks_for_nothing_yet():
    corpus = SelfStudyDataModule(corpus="hf://datasets/them/set/de:test").corpus
    assert isinstance(corpus, HubDataset)
    assert (corpus.name, corpus.config, corpus.split, corpus.column) == ("them/set", "de", "test", "text")
