"""The bundled weights: their size, how they load, and that they read."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from lit_cartridges.pocket import model_path
from lit_cartridges.pocket.tokenizer import words
from pocket_lab.measure import icl_accuracy, load, self_study

pytestmark = pytest.mark.skipif(
    not (model_path() / "model.safetensors").exists(), reason="no weights bundled yet"
)


@pytest.fixture(scope="module")
def reader():
    return load()


def test_size_and_shape():
    assert sum(file.stat().st_size for file in model_path().iterdir()) <= 12 * 2**20
    assert {"README.md", "config.json", "generation_config.json", "tokenizer.json"} <= {
        file.name for file in model_path().iterdir()
    }
    config = AutoConfig.from_pretrained(model_path())
    assert config.num_key_value_heads == config.num_attention_heads
    assert config.max_position_embeddings >= 4096 and config.vocab_size >= len(words())


def test_tokenizer_is_the_languages_own(reader):
    assert [reader.tokenizer.convert_tokens_to_ids(word) for word in words()] == list(range(len(words())))


def test_reads_short_held_out_corpora(reader):
    assert icl_accuracy(reader, 100, 100)["accuracy"] >= 0.97


def test_reads_long_held_out_corpora(reader):
    assert icl_accuracy(reader, 1500, 60)["accuracy"] >= 0.97


def test_knows_nothing_by_heart(reader):
    assert icl_accuracy(reader, 300, 60, with_text=False)["accuracy"] <= 0.15


@pytest.mark.parametrize("kind", ["question", "use_case", "creative"])
def test_asks_about_what_the_chunk_says_and_answers_that(reader, kind):
    found = self_study(reader, kind, 256, 3, 20)
    # Names drawn blindly would make less than 0.05 of the messages valid.
    assert found["valid"] >= 0.5 and found["right"] >= 0.8
