"""Runs whose teacher reads more than the context holds: long chunks, or the whole corpus in front of every chunk."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.cartridge_cli import CartridgeCLI
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.conversations.recording import Recording, RecordingError
from lit_cartridges.corpora.open_corpus import open_corpus
from lit_cartridges.losses import FullDistillation
from lit_cartridges.teachers.local import LocalTeacher
from tests.tiny_run import (
    SaveAt,
    fit,
    from_recording,
    new_data,
    new_module,
    new_trainer,
    same_tensors,
    save_corpus,
    save_model,
)

SMALL = CascadeOptions(total_tokens=68, cascades=4, stride_tokens=64)


@pytest.fixture
def long_corpus(tmp_path) -> str:
    return save_corpus(tmp_path / "long.txt", num_tokens=700)  # the models have 512 positions


def taught(corpus, **options):
    """Chunks of 20 to 40 tokens behind the whole corpus."""
    return new_data(
        corpus, **({"corpus_before_chunk": True, "teacher": LocalTeacher(cascade=SMALL)} | options)
    )


@pytest.mark.parametrize("cascade", [None, SMALL])
def test_a_chunk_may_be_a_whole_corpus_beyond_the_context(tmp_path, model_folder, long_corpus, cascade):
    teacher = LocalTeacher(cascade=cascade)
    data = new_data(long_corpus, min_chunk_tokens=700, max_chunk_tokens=700, teacher=teacher)
    module, trainer = new_module(model_folder), new_trainer(tmp_path / "run", max_steps=1)
    if cascade is None:
        with pytest.raises(ValueError, match="a chunk of 700 tokens .* do not fit the model's 512 positions"):
            trainer.fit(module, data)
    else:
        trainer.fit(module, data)
        assert trainer.global_step == 1
        assert torch.isfinite(torch.tensor(float(trainer.callback_metrics["train/loss"])))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_stopped_run_goes_on_with_the_corpus_in_front_of_every_chunk(tmp_path, long_corpus, architecture):
    model = save_model(tmp_path / "model", architecture)
    states = []
    checkpoint = tmp_path / "x.ckpt"
    for folder, callbacks, start in (("whole", [SaveAt(2, checkpoint)], None), ("resumed", [], checkpoint)):
        module = new_module(model)
        fit(tmp_path / folder, module, taught(long_corpus), *callbacks, ckpt_path=start)
        states.append(dict(module.cartridge.state_dict()))
    assert same_tensors(*states)
    whole, resumed = (Recording(tmp_path / name / "recording") for name in ("whole", "resumed"))
    common = set(whole.groups()) & set(resumed.groups())
    assert common and all(whole.read_group(g) == resumed.read_group(g) for g in common)
    assert all(c.metadata["corpus_before_chunk"] == 1 for g in common for c in whole.read_group(g))


def test_conversations_depend_on_what_stands_in_front_and_say_so(tmp_path, model_folder, long_corpus):
    """The same seed, chunk and seed prompts; a recording made in one way is refused in every other."""
    asked, starts, ways = {}, {}, {"chunk alone": new_data, "behind the corpus": taught}
    for name, way in ways.items():
        fit(tmp_path / name, new_module(model_folder), way(long_corpus), max_steps=1)
        conversations = Recording(tmp_path / name / "recording").read_group(0)
        asked[name] = [c.messages[-1].content for c in conversations]
        starts[name] = {c.metadata["chunk_start_token"] for c in conversations}
    assert starts["chunk alone"] == starts["behind the corpus"]
    assert asked["chunk alone"] != asked["behind the corpus"]
    larger = LocalTeacher(cascade=CascadeOptions(total_tokens=100, cascades=4, stride_tokens=64))
    for name, data, setting in (
        ("chunk alone", taught(long_corpus), "corpus_before_chunk: None then, True now"),
        ("behind the corpus", new_data(long_corpus), "corpus_before_chunk: True then, None now"),
        ("behind the corpus", taught(long_corpus, teacher=larger), "'total_tokens': 68.*'total_tokens': 100"),
    ):
        with pytest.raises(RecordingError, match=setting):
            fit(tmp_path / name, new_module(model_folder), data, max_steps=1)


@pytest.mark.parametrize(
    ("options", "objective", "message"),
    [
        (
            {"teacher": LocalTeacher()},
            None,
            r"the corpus takes 702 positions .* total_tokens of at most 4\d\d",
        ),
        (
            {
                "teacher": LocalTeacher(cascade=CascadeOptions(total_tokens=448, stride_tokens=64)),
                "max_chunk_tokens": 60,
            },
            None,
            r"corpus_before_chunk=true: the corpus takes 448 positions .*max_tokens=60.* the model has 512",
        ),
        (
            {"teacher": LocalTeacher(cascade=CascadeOptions(total_tokens=500, stride_tokens=64))},
            None,
            "stride_tokens=64: a cache and a stride need positions up to 563, and the model has max_position_embeddings=512",
        ),
        ({}, FullDistillation(), "corpus_before_chunk=true puts the whole corpus into it; choose TopKDist"),
        (
            {"corpus_before_chunk": False, "min_chunk_tokens": 700, "max_chunk_tokens": 700},
            FullDistillation(),
            "a chunk of 700 tokens .* do not fit the model's 512 positions",
        ),
    ],
)
def test_what_cannot_work_fails_before_the_model_is_loaded(
    tmp_path, model_folder, long_corpus, options, objective, message
):
    module = new_module(model_folder, **({"objective": objective} if objective else {}))
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, module, taught(long_corpus, **options), max_steps=1)
    assert module.student is None


def test_a_recording_made_behind_the_corpus_cannot_be_read_again_in_full(tmp_path, model_folder, long_corpus):
    fit(tmp_path, new_module(model_folder), taught(long_corpus), max_steps=1)
    replayed = from_recording(long_corpus, str(tmp_path / "recording"))
    fit(tmp_path / "b", new_module(model_folder), replayed, max_steps=1)
    replayed = from_recording(long_corpus, str(tmp_path / "recording"))
    with pytest.raises(ValueError, match="corpus_before_chunk=true puts the whole corpus into it"):
        fit(tmp_path / "c", new_module(model_folder, objective=FullDistillation()), replayed, max_steps=1)


def test_an_off_corpus_question_is_not_asked_behind_the_corpus(tmp_path, model_folder, long_corpus):
    """Its conversations are those of a plain teacher."""
    other, made = save_corpus(tmp_path / "other.txt", seed=5), []
    for name, way in (("a", taught), ("b", new_data)):
        data = way(long_corpus, off_corpus=open_corpus(other), off_corpus_share=1.0)
        fit(tmp_path / name, new_module(model_folder), data, max_steps=1)
        made.append([c.messages for c in Recording(tmp_path / name / "recording").read_group(0)])
    assert made[0] == made[1]


def test_it_is_set_in_a_recipe_and_on_the_command_line():
    cli = CartridgeCLI.run_with(
        [
            "--config=pocket_two_places.yaml",
            "--data.source.corpus_before_chunk=true",
            "--data.source.teacher=LocalTeacher",
            "--data.source.teacher.cascade.total_tokens=516",
        ],
        run=False,
    )
    assert cli.datamodule.source.corpus_before_chunk
    assert cli.datamodule.source.teacher.cascade == CascadeOptions(total_tokens=516)
    assert not CartridgeCLI.run_with(
        ["--config=pocket.yaml"], run=False
    ).datamodule.source.corpus_before_chunk
