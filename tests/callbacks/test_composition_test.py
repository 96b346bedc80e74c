"""The cartridge in training, composed with others from disk."""

from __future__ import annotations

import pytest
from jsonargparse import ArgumentParser

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.callbacks import composition_test
from lit_cartridges.callbacks.composition_test import CompositionTest, OtherCartridge
from lit_cartridges.cartridge import Fingerprint, Provenance
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.systems import of_cartridge
from tests.evals.words import WordTask
from tests.tiny_models import tiny_model
from tests.tiny_run import (
    from_recording,
    new_module,
    new_trainer,
    save_recording,
)

TASK, THEIR_TASK, JOINT_TASK = (WordTask(num_questions=n) for n in (4, 6, 3))


def save_other(folder, *, num_tokens: int = 6, architecture: str = "llama", base_model: str = "tiny") -> str:
    model = tiny_model(architecture)
    keys, values = prefill(model, [3 + i % 90 for i in range(num_tokens)])
    known = Provenance(base_model=base_model, fingerprint=Fingerprint.of_config(model.config))
    return str(Cartridge(keys, values, provenance=known).save_pretrained(folder))


def fit(folder, model, corpus, callback, **options):
    recorded = save_recording(folder / "recorded.parquet", corpus=corpus)
    module, data = new_module(model), from_recording(corpus, recorded)
    trainer = new_trainer(folder, callback, **({"max_steps": 3} | options))
    trainer.fit(module, data)
    return trainer, module


def test_each_corpus_is_asked_about_alone_and_composed(tmp_path, model_folder, corpus, monkeypatch):
    asked = []

    def record(model_folder, renderer, system, *args, **options):
        asked.append(system.name)
        return evaluate(model_folder, renderer, system, *args, **options)

    monkeypatch.setattr(composition_test, "evaluate", record)
    path = save_other(tmp_path / "runs" / "theirs" / "cartridge", base_model=model_folder)
    others = [OtherCartridge(path=path, task=THEIR_TASK)]
    callback = CompositionTest(
        task=TASK, others=others, joint_task=JOINT_TASK, every_n_steps=2, max_new_tokens=3
    )
    trainer, module = fit(tmp_path, model_folder, corpus, callback)
    assert [r["step"] for r in callback.history] == [2, 3]
    assert asked.count("theirs/alone") == asked.count("joint/theirs") == 1, (
        "what does not change is measured once"
    )
    assert asked.count("own/alone") == asked.count("theirs/composed") == asked.count("joint/composed") == 2
    rows = {name.rpartition("/")[0] for name in callback.history[-1] if "/" in name}
    assert rows == {
        *(f"composition/{c}/{way}" for c in ("own", "theirs", "both") for way in ("alone", "composed")),
        *(f"composition/joint/{c}" for c in ("own", "theirs", "composed")),
    }

    theirs = Cartridge.from_pretrained(path)
    both = Cartridge.compose([module.cartridge, theirs])
    expected = {
        "own/alone": (module.cartridge, TASK),
        "theirs/alone": (theirs, THEIR_TASK),
        "own/composed": (both, TASK),
        "theirs/composed": (both, THEIR_TASK),
        "joint/composed": (both, JOINT_TASK),
    }
    for at, (cartridge, task) in expected.items():
        system = of_cartridge(at, cartridge, module.student)
        again = evaluate(module.student, module.material.renderer, system, task, max_new_tokens=3)
        assert callback.results[at].replies == again.replies, at
    assert callback.results["own/composed"].num_kv_tokens == 8 + 6 - 1, "one sink is kept"
    last, name = callback.history[-1], "answer_log_likelihood"
    own, other = (last[f"composition/{c}/composed/{name}"] for c in ("own", "theirs"))
    assert own != other and last[f"composition/both/composed/{name}"] == pytest.approx(
        (4 * own + 6 * other) / 10
    )


def test_all_sinks_can_be_kept(tmp_path, model_folder, corpus):
    others = [OtherCartridge(path=save_other(tmp_path / "theirs", base_model=model_folder), task=THEIR_TASK)]
    callback = CompositionTest(task=TASK, others=others, keep_sinks=True, max_new_tokens=2)
    fit(tmp_path, model_folder, corpus, callback, max_steps=1)
    assert callback.results["own/composed"].num_kv_tokens == 14


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        (None, {}, "missing' holds no cartridge.safetensors"),
        ({"architecture": "qwen3"}, {}, r"others: .*theirs .*does not fit .*head_dim: 16 against 8"),
        (
            {"num_tokens": 490},
            {},
            r"all cartridges side by side: 498 positions in front .*max_position_embeddings=512",
        ),
        ({}, {"task": WordTask(num_questions=0)}, "task=WordTask gives no questions"),
    ],
)
def test_what_cannot_work_fails_before_the_model_is_loaded(
    tmp_path, model_folder, corpus, other, options, message
):
    path = save_other(tmp_path / "theirs", **other) if other is not None else str(tmp_path / "missing")
    recorded = save_recording(tmp_path / "recorded.parquet", corpus=corpus)
    module, data = new_module(model_folder), from_recording(corpus, recorded)
    callback = CompositionTest(
        **({"task": TASK, "others": [OtherCartridge(path=path, task=THEIR_TASK)]} | options)
    )
    with pytest.raises(ValueError, match=message):
        new_trainer(tmp_path, callback, max_steps=1).fit(module, data)
    assert module.student is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "needs others"),
        (["x", "x"], r"names \['x', 'x'\], which must differ"),
        (["own"], r"names \['own'\]"),
        (["", ""], r"names \['run', 'run'\]"),
    ],
)
def test_bad_settings(names, message):
    others = [OtherCartridge(path="some/run/cartridge-best", task=TASK, name=name) for name in names]
    with pytest.raises(ValueError, match=message):
        CompositionTest(task=TASK, others=others)


def test_a_recipe_can_name_the_others_and_their_tasks():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(CompositionTest, "callback")
    task = {"class_path": "tests.evals.words.WordTask", "init_args": {"num_questions": 2}}
    others = [
        {"path": "runs/a/cartridge", "task": task},
        {"path": "runs/b/cartridge", "task": task, "name": "second"},
    ]
    name = "lit_cartridges.callbacks.CompositionTest"
    given = {"callback": {"class_path": name, "init_args": {"task": task, "others": others}}}
    callback = parser.instantiate(parser.parse_object(given)).callback
    assert list(callback.others) == ["a", "second"]
    assert callback.others["second"].task.num_questions == callback.task.num_questions == 2
