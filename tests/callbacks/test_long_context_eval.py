"""Measuring in the middle of a run: when, what, once for the baselines, and without disturbing the training."""

from __future__ import annotations

import csv
import logging

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger

from lit_cartridges.callbacks import CartridgeCheckpoint, long_context_eval
from lit_cartridges.callbacks.long_context_eval import LongContextEval
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.result_file import Evaluation
from lit_cartridges.evals.systems import of_cartridge
from tests.evals.words import Answered, WordTask
from tests.tiny_run import (
    SaveAt,
    from_recording,
    new_data,
    new_module,
    new_trainer,
    same_tensors,
    save_corpus,
    save_recording,
)

FIGURES = {"accuracy", "accuracy_standard_error", "answer_log_likelihood", "seconds_per_answer"}


@pytest.fixture
def asked(monkeypatch):
    """The systems that are evaluated, in their order."""
    names = []

    def record(model, renderer, system, *args, **options):
        names.append(system.name)
        return evaluate(model, renderer, system, *args, **options)

    monkeypatch.setattr(long_context_eval, "evaluate", record)
    return names


def callback_of(**options) -> LongContextEval:
    return LongContextEval(**({"task": WordTask(), "max_new_tokens": 4, "every_n_steps": 2} | options))


def fit(folder, model, corpus, *callbacks, ckpt_path=None, recorded=None, **options):
    """Trains on a recording by default, which is quicker than asking the model."""
    recorded = recorded or save_recording(folder / "recorded.parquet", corpus=corpus)
    module, data = new_module(model), from_recording(corpus, recorded)
    trainer = new_trainer(folder, *callbacks, **({"max_steps": 5} | options))
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, module


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, [2, 4, 5]), ({"at_start": True, "at_end": False}, [0, 2, 4]), ({"every_n_steps": 5}, [5])],
)
def test_once_every_so_many_optimizer_steps(tmp_path, model_folder, corpus, asked, options, steps):
    callback = callback_of(**({"systems": ["cartridge", "no_context"]} | options))
    fit(tmp_path, model_folder, corpus, callback, accumulate_grad_batches=2)
    assert [record["step"] for record in callback.history] == steps
    assert asked == ["no_context"] + ["cartridge"] * len(steps), "baselines are measured once"
    assert [r["training_s"] for r in callback.history] == sorted(r["training_s"] for r in callback.history)


def test_the_cartridge_beside_all_baselines_reaches_the_loggers(tmp_path, model_folder, corpus, asked):
    callback = callback_of()
    trainer, module = fit(
        tmp_path, model_folder, corpus, callback, logger=CSVLogger(tmp_path, name="", version="")
    )
    assert asked == ["icl", "no_context", "cartridge", "cartridge", "cartridge"], "truncated_icl would be icl"
    systems = {"cartridge", "icl", "truncated_icl", "no_context"}
    names = {f"eval/{system}/{figure}" for system in systems for figure in FIGURES}
    assert set(callback.history[-1]) == names | {"step", "training_s"}
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["eval/icl/answer_log_likelihood"]]
    assert [int(row["step"]) for row in rows] == [2, 4, 5]
    for row, record in zip(rows, callback.history, strict=True):
        assert {name: float(row[name]) for name in names} == pytest.approx(
            {name: record[name] for name in names}
        )
    assert {"eval/cartridge/accuracy", "eval/icl/accuracy"} <= set(trainer.callback_metrics)
    results = callback.results
    assert results["icl"].num_kv_tokens == 122 and results["cartridge"].num_kv_tokens == 8
    assert results["truncated_icl"].accuracy == results["icl"].accuracy
    values = [record["eval/cartridge/answer_log_likelihood"] for record in callback.history]
    assert len(set(values)) == 3, "the cartridge has moved"


def test_the_run_keeps_figures_and_every_reply(tmp_path, model_folder, corpus):
    callback = callback_of(name="mine/eval")
    fit(tmp_path, model_folder, corpus, callback)
    held = Evaluation.read(tmp_path / "evaluations" / "mine_eval.json")
    assert held.results == tuple(callback.results.values()) and held.step == 5
    assert (held.corpus, held.corpus_tokens, held.model) == ("corpus.txt", 120, model_folder)
    assert all(len(result.replies) == len(callback.task.questions()) for result in held.results)


@pytest.mark.parametrize(("every_n_steps", "saved_every"), [(5, 5), (2, 5), (3, 4)])
def test_the_saved_cartridge_has_the_scores_of_its_own_step(
    tmp_path, model_folder, corpus, every_n_steps, saved_every
):
    """Also where it was measured once more after it had been saved."""
    callback = callback_of(every_n_steps=every_n_steps)
    checkpoint = CartridgeCheckpoint(every_n_steps=saved_every)
    fit(tmp_path, model_folder, corpus, callback, checkpoint, enable_checkpointing=True)
    known = Cartridge.from_pretrained(tmp_path / "cartridge").provenance
    assert known.steps == 5
    scores = {one["system"]: one["accuracy"] for one in known.notes["scores"]}
    assert scores == {name: result.accuracy for name, result in callback.results.items()}
    assert "## Scores" in (tmp_path / "cartridge" / "README.md").read_text()


def test_scores_of_another_step_are_not_the_cartridges(tmp_path, model_folder, corpus):
    callback = callback_of(every_n_steps=2, at_end=False)
    fit(tmp_path, model_folder, corpus, callback, CartridgeCheckpoint(), enable_checkpointing=True)
    assert "scores" not in Cartridge.from_pretrained(tmp_path / "cartridge").provenance.notes


def test_streams_are_measured_where_they_are_named(tmp_path, model_folder, corpus, asked):
    size = CascadeOptions(total_tokens=36, stride_tokens=16)
    callback = callback_of(systems=["cascade", "streaming_llm"], cascade=size, every_n_steps=5)
    fit(tmp_path, model_folder, corpus, callback)
    assert asked == ["cascade", "streaming_llm"]
    assert {r.num_kv_tokens for r in callback.results.values()} == {36}


def test_the_last_measurement_is_of_the_cartridge_as_it_stands(tmp_path, model_folder, corpus):
    callback = callback_of()
    trainer, module = fit(tmp_path, model_folder, corpus, callback)
    system = of_cartridge("x", module.cartridge, module.student)
    again = evaluate(module.student, module.material.renderer, system, callback.task, max_new_tokens=4)
    assert callback.results["cartridge"].replies == again.replies
    assert callback.history[-1]["eval/cartridge/answer_log_likelihood"] == again.answer_log_likelihood


def test_training_is_not_disturbed(tmp_path, model_folder, corpus):
    """On the fly, where sampling, sharing of prefills and the model's mode could all be disturbed."""
    parts = []
    for folder, callbacks in (("a", []), ("b", [callback_of(at_start=True, every_n_steps=1)])):
        module, data = new_module(model_folder), new_data(corpus)
        new_trainer(tmp_path / folder, *callbacks, max_steps=2).fit(module, data)
        parts.append((dict(module.cartridge.state_dict()), torch.get_rng_state()))
        assert not module.student.training
        assert all(parameter.grad is None for parameter in module.student.parameters())
        torch.manual_seed(0)
    assert same_tensors(parts[0][0], parts[1][0])


def test_a_task_that_draws_random_numbers_moves_no_random_state(tmp_path, model_folder, corpus):
    class Random(WordTask):
        def is_right(self, question, reply):
            return bool(torch.rand(()) < 0.5)

    states = []
    for callbacks in ([], [callback_of(task=Random())]):
        folder = tmp_path / str(len(callbacks))
        folder.mkdir()
        torch.manual_seed(5)
        fit(folder, model_folder, corpus, *callbacks, max_steps=2)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_corpus_beyond_the_context_leaves_icl_out(tmp_path, model_folder, caplog):
    corpus = save_corpus(tmp_path / "long.txt", num_tokens=600)
    callback = callback_of()
    with caplog.at_level(logging.WARNING):
        fit(tmp_path, model_folder, corpus, callback, max_steps=2)
    assert set(callback.results) == {"cartridge", "truncated_icl", "no_context"}
    told = [record.getMessage() for record in caplog.records if "leaves out" in record.getMessage()]
    assert len(told) == 1 and "icl: the corpus takes 602 tokens" in told[0] and "holds 512" in told[0]
    assert 400 < callback.results["truncated_icl"].num_kv_tokens < 512


def test_icl_can_be_kept_to_the_context_that_the_model_was_trained_on(tmp_path, model_folder, corpus):
    callback = callback_of(max_context_tokens=60)
    fit(tmp_path, model_folder, corpus, callback, max_steps=2)
    assert "icl" not in callback.results
    assert 30 < callback.results["truncated_icl"].num_kv_tokens < 60


def test_a_resumed_run_goes_on_with_the_history(tmp_path, model_folder, corpus, asked):
    recorded = save_recording(tmp_path / "recorded.parquet", corpus=corpus)
    whole, first, second = (callback_of(systems=["cartridge"]) for _ in range(3))
    fit(tmp_path, model_folder, corpus, whole, recorded=recorded)
    checkpoint = tmp_path / "x.ckpt"
    fit(tmp_path, model_folder, corpus, first, SaveAt(4, checkpoint), recorded=recorded)
    fit(tmp_path, model_folder, corpus, second, recorded=recorded, ckpt_path=checkpoint)
    assert [record["step"] for record in second.history] == [2, 4, 5]
    name = "eval/cartridge/answer_log_likelihood"
    assert [record[name] for record in second.history] == [record[name] for record in whole.history]
    assert len(asked) == 3 + 3 + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": Answered([])}, "task=Answered gives no questions"),
        ({"num_questions": 0}, "num_questions=0"),
        ({"max_new_tokens": 500}, "cartridge: 8 positions in front and up to .* max_position_embeddings=512"),
    ],
)
def test_what_cannot_work_fails_before_the_model_is_loaded(tmp_path, model_folder, corpus, options, message):
    recorded = save_recording(tmp_path / "recorded.parquet", corpus=corpus)
    module, data = new_module(model_folder), from_recording(corpus, recorded)
    with pytest.raises(ValueError, match=message):
        new_trainer(tmp_path, callback_of(**options), max_steps=1).fit(module, data)
    assert module.student is None


def test_a_cascade_that_the_model_has_no_positions_for_fails_before_it_is_loaded(
    tmp_path, model_folder, corpus
):
    recorded = save_recording(tmp_path / "recorded.parquet", corpus=corpus)
    module, data = new_module(model_folder), from_recording(corpus, recorded)
    callback = callback_of(systems=["cascade"], cascade=CascadeOptions(total_tokens=500, stride_tokens=64))
    with pytest.raises(ValueError, match="max_position_embeddings=512; their sum must be at most 512"):
        new_trainer(tmp_path, callback, max_steps=1).fit(module, data)
    assert module.student is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps=0 must be at least 1"),
        (
            {"systems": ["rag"]},
            r"systems=\['rag'\] must name some of cartridge, cascade, icl, no_context",
        ),
        ({"systems": []}, "must name some of"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        callback_of(**options)


def test_two_of_them_can_be_in_one_run():
    assert callback_of(name="a").state_key != callback_of(name="b").state_key


def test_scores_of_a_cartridge_are_not_those_of_its_average(tmp_path, model_folder, corpus):
    callbacks = (
        callback_of(every_n_steps=5),
        CartridgeCheckpoint(every_n_steps=5),
        EMAWeightAveraging(decay=0.5),
    )
    fit(tmp_path, model_folder, corpus, *callbacks, enable_checkpointing=True)
    assert "scores" not in Cartridge.from_pretrained(tmp_path / "cartridge").provenance.notes
