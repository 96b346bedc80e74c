"""SelfStudyDataModule: settings that cannot work fail before a model is loaded, naming what would (law 7)."""

from __future__ import annotations

import pytest
import torch
from jsonargparse import ArgumentParser

from lit_cartridges.corpora.open_corpus import CorpusError
from lit_cartridges.data import RawCorpus, Recorded, SelfStudyDataModule
from lit_cartridges.data.sources.example_source import teacher_context_ids
from lit_cartridges.data.stream import StreamState
from lit_cartridges.errors import SettingError
from lit_cartridges.losses import FullDistillation, NextToken, TopKDistillation
from tests.tiny_run import (
    FIRST_WORD,
    conversation,
    from_recording,
    new_data,
    new_module,
    new_trainer,
    save_corpus,
    save_recording,
)


def set_up(folder, model, data, *, objective=None, **trainer):
    """What the trainer does before it loads a model."""
    module = new_module(model, objective=objective or TopKDistillation())
    module.trainer = data.trainer = new_trainer(folder, **({"max_steps": 1} | trainer))
    data.trainer.strategy.connect(module)
    data.setup("fit")
    module.setup("fit")
    return data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_chunk_tokens": 50}, "min_chunk_tokens=50, max_chunk_tokens=40"),
        ({"question_temperature": -1.0}, "question_temperature=-1.0 must be at least 0"),
        ({"answer_max_tokens": 0}, "answer_max_tokens=0 must be at least 1"),
    ],
)
def test_bad_settings_are_named_at_once(corpus, options, message):
    with pytest.raises(ValueError, match=message):
        new_data(corpus, **options)


@pytest.mark.parametrize(
    ("old", "mend"),
    [
        ({"recorded": "r.parquet"}, "data.source.path now, of data.source=Recorded"),
        ({"raw_corpus": True}, "data.source now, give data.source=RawCorpus"),
        ({"max_chunk_tokens": 40}, "data.source.max_chunk_tokens now, of data.source=SelfStudy"),
    ],
)
def test_a_setting_that_has_moved_is_refused_with_its_new_name(corpus, old, mend):
    with pytest.raises(SettingError, match=f"data.{next(iter(old))}=.*: this setting is {mend}"):
        SelfStudyDataModule(corpus=corpus, **old)


def test_a_missing_recording_is_named_at_once():
    with pytest.raises(SettingError, match="path='nowhere.parquet'"):
        Recorded(path="nowhere.parquet")


def test_a_missing_corpus_is_named_at_once(tmp_path):
    with pytest.raises(SettingError, match="corpus=.*nowhere.txt.*no such file or folder"):
        new_data(str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize(
    ("options", "objective", "message"),
    [
        ({"top_k": 98}, None, r"top_k=98 must lie in 0..97"),
        (
            {"source": RawCorpus()},
            None,
            "objective TopKDistillation needs .* which source=RawCorpus does not give; .*NextToken",
        ),
        ({"top_k": 0}, None, "objective TopKDistillation needs .* which source.top_k=0 does not give"),
        (
            {"min_chunk_tokens": 200, "max_chunk_tokens": 600, "long": True},
            None,
            "max_chunk_tokens=600, .*: a chunk of 500 tokens .* 512 pos",
        ),
        ({"conversations_per_group": 0}, None, "conversations_per_group=0 must be at least 1"),
        ({"num_rounds": 0}, None, "num_rounds=0 must be at least 1"),
        ({"seed": -1}, None, "seed=-1 must be at least 0"),
        ({"off_corpus_share": 0.5}, None, "off_corpus_share=0.5 needs off_corpus"),
        ({"off_corpus_share": 1.5}, None, "off_corpus_share=1.5 must be at most 1"),
        ({"min_mass": 0.0}, None, "min_mass=0.0 must be above 0"),
        ({"system_template": "no place"}, None, "system_template='no place' must hold"),
        ({"seed_prompts": "unheard"}, None, "seed_prompts='unheard' is not registered"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_are_judged_before_a_model_is_loaded(
    tmp_path, model_folder, corpus, monkeypatch, options, objective, message
):
    monkeypatch.setattr(
        "lit_cartridges.module.lit_cartridge.load_frozen_model",
        lambda *_, **__: pytest.fail("the model was loaded"),
    )
    options = dict(options)
    if options.pop("long", False):
        corpus = save_corpus(tmp_path / "long.txt", num_tokens=500)
    with pytest.raises((ValueError, RuntimeError), match=message):
        set_up(tmp_path, model_folder, new_data(corpus, **options), objective=objective)


def test_an_empty_corpus_is_an_error_before_a_model_is_loaded(tmp_path, model_folder):
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(CorpusError, match="empty.txt.*the corpus is empty"):
        set_up(tmp_path, model_folder, new_data(str(tmp_path / "empty.txt")))


def test_shards_must_be_a_multiple_of_the_processes(tmp_path, model_folder, corpus):
    data = set_up(
        tmp_path,
        model_folder,
        from_recording(corpus, save_recording(tmp_path / "r.parquet"), num_shards=3),
    )
    monkey = type(
        "Two", (), {"world_size": 2, "global_rank": 0, "accumulate_grad_batches": 1, "strategy": None}
    )()
    data.trainer = monkey
    with pytest.raises(ValueError, match="num_shards=3 must be a multiple of the 2 processes"):
        data.train_dataloader()
    data.num_shards = 4
    assert data.train_dataloader().dataset.shards == (0, 2)


def test_a_recording_is_trained_on_without_a_teacher(tmp_path, model_folder, corpus):
    data = set_up(tmp_path, model_folder, from_recording(corpus, save_recording(tmp_path / "r.parquet")))
    batch = next(iter(data.train_dataloader()))
    answers = {tuple(conversation(i).answers[0].token_ids.tolist()) for i in range(16)}
    for row in range(len(batch.lengths)):
        assert tuple(batch.targets.token_ids[batch.label_rows == row].tolist()) in answers
    assert not (tmp_path / "recording").exists()


def test_a_recording_of_another_tokenizer_is_refused(tmp_path, model_folder, corpus, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tests.tiny_run.tokenizer_fingerprint", lambda _: "0" * 64)
        recorded = save_recording(tmp_path / "r.parquet")
    with pytest.raises(ValueError, match="source.path=.*made with another tokenizer"):
        set_up(tmp_path, model_folder, from_recording(corpus, recorded))


def test_a_recording_without_log_probabilities_is_refused_for_an_objective_that_needs_them(
    tmp_path, model_folder, corpus
):
    recorded = save_recording(tmp_path / "r.parquet", top_logprobs=False)
    data = set_up(tmp_path, model_folder, from_recording(corpus, recorded), objective=NextToken())
    assert next(iter(data.train_dataloader())).targets.top_ids is None
    data = set_up(tmp_path, model_folder, from_recording(corpus, recorded))
    with pytest.raises(
        ValueError, match="has an answer without the teacher's log-probabilities, which the objective needs"
    ):
        next(iter(data.train_dataloader()))


def test_raw_corpus_gives_windows_of_the_corpus(tmp_path, model_folder, corpus):
    data = set_up(
        tmp_path, model_folder, new_data(corpus, source=RawCorpus(window_tokens=10)), objective=NextToken()
    )
    batch = next(iter(data.train_dataloader()))
    assert set(batch.lengths) == {9}
    assert set(batch.labels) == {"corpus"}
    text = " ".join(map(str, data.material.corpus_ids.tolist()))
    for piece in batch.input_ids[0].split(batch.lengths):
        assert " ".join(map(str, piece.tolist())) in text


def test_the_context_of_a_recorded_conversation_is_its_chunk(tmp_path, model_folder, corpus):
    recorded = save_recording(tmp_path / "r.parquet", corpus=corpus)
    data = set_up(tmp_path, model_folder, from_recording(corpus, recorded), objective=FullDistillation())
    material = data.material
    for index in range(4):
        made = conversation(index, corpus=corpus)
        start = made.metadata["chunk_start_token"]
        assert teacher_context_ids(material, made) == material.renderer.context_ids(
            material.corpus_ids[start : start + 30]
        )
    foreign = conversation(0)
    assert teacher_context_ids(material, foreign) == material.renderer.context_ids(
        [FIRST_WORD]
    )  # its system prompt: "w0"


def test_the_state_is_the_place_of_the_last_batch_used(tmp_path, model_folder, corpus):
    recorded = save_recording(tmp_path / "r.parquet")
    data = set_up(tmp_path, model_folder, from_recording(corpus, recorded))
    batches = iter(data.train_dataloader())
    first, second, third = (next(batches) for _ in range(3))
    first.used()
    second.used()
    state = data.state_dict()
    again = set_up(tmp_path, model_folder, from_recording(corpus, recorded))
    again.load_state_dict(state)
    assert again.stream_state == second.stream_state != StreamState({})
    assert torch.equal(next(iter(again.train_dataloader())).input_ids, third.input_ids)


@pytest.mark.parametrize(
    ("words", "options", "told"),
    [
        (
            30,
            {},
            "data.source.min_chunk_tokens=20, data.source.max_chunk_tokens=40: the corpus has only 30 tokens, so 48% of "
            "the chunks are all of it; give at most 30",
        ),
        (19, {}, "the corpus has only 19 tokens, so 100% of the chunks are all of it"),
        (
            30,
            {"source": RawCorpus(window_tokens=31)},
            "data.source.window_tokens=31: the corpus has only 30 tokens",
        ),
        (8, {}, "model.num_tokens=8: the cartridge is no shorter than its corpus of 8 tokens"),
        (40, {"source": RawCorpus(window_tokens=40)}, ""),
        (40, {}, ""),
    ],
)
def test_settings_that_a_short_corpus_makes_pointless_are_told_once(
    tmp_path, model_folder, caplog, words, options, told
):
    data = new_data(save_corpus(tmp_path / "short.txt", num_tokens=words), **options)
    objective = NextToken() if options else None
    for _ in range(2):
        set_up(tmp_path, model_folder, data, objective=objective)
    warnings = [r.getMessage() for r in caplog.records if r.name.endswith("proportions")]
    assert len([w for w in warnings if told and told in w]) == bool(told)
    assert bool(warnings) == bool(told)


@pytest.mark.parametrize("name", ["corpus", "source.off_corpus"])
def test_a_corpus_is_a_path_below_home_too_or_a_reader_with_its_settings(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "a.json").write_text('[{"body": "x"}]')
    (tmp_path / "a.txt").write_text("y")
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = ArgumentParser()
    parser.add_class_arguments(SelfStudyDataModule, "data")

    def text_of(*options: str) -> str:
        given = [
            "--data.corpus=~/a.txt",
            "--data.source=SelfStudy",
            *(f"--data.{name}{option}" for option in options),
        ]
        made = parser.instantiate(parser.parse_args(given)).data
        return (made.corpus if name == "corpus" else made.source.off_corpus).text

    assert text_of("=~/a.txt") == "y"
    assert text_of("=JsonCorpus", ".path=~/a.json", ".field=body") == "x"
    where = f"{name.rpartition('.')[2]}='~/none.txt'"
    with pytest.raises(ValueError, match=f"{where}: there is no such file or folder"):
        text_of("=~/none.txt")
