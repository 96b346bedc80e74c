"""`lit-cartridges evaluate`: the table, the JSON file, and what bad settings are told before a model is loaded."""

from __future__ import annotations

import json

import pytest

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Fingerprint, Provenance
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.commands import evaluate as command
from lit_cartridges.commands.evaluate import evaluate_command
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.corpora.open_corpus import TextCorpus
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.result_file import Evaluation
from lit_cartridges.evals.systems import icl
from lit_cartridges.evals.tasks.task import EvalError
from tests.evals.words import Answered, WordTask
from tests.tiny_models import tiny_model
from tests.tiny_run import save_corpus, tokenizer


@pytest.fixture
def unloaded(monkeypatch):
    """Loading a model is a failure."""
    monkeypatch.setattr(command, "load_model", lambda *args, **options: pytest.fail("a model was loaded"))


def save_cartridge(folder, model: str, *, architecture: str = "llama", ids=range(3, 30)) -> str:
    network = tiny_model(architecture)
    keys, values = prefill(network, list(ids))
    known = Provenance(base_model=model, fingerprint=Fingerprint.of_config(network.config))
    return str(Cartridge(keys, values, provenance=known).save_pretrained(folder))


def test_cartridges_and_baselines_in_one_table_and_one_file(tmp_path, model_folder, corpus, capsys):
    renderer = ChatRenderer(tokenizer())
    ids = TextCorpus(path=corpus).token_ids(tokenizer())
    mine = save_cartridge(tmp_path / "mine", model_folder, ids=renderer.context_ids(ids))
    other = save_cartridge(tmp_path / "other", model_folder)
    results = evaluate_command(
        task=WordTask(),
        cartridges=[f"mine={mine}", other],
        corpus=corpus,
        systems=["icl", "truncated_icl", "no_context"],
        compose=True,
        out=str(tmp_path / "new" / "report.json"),
        max_new_tokens=3,
        progress=False,
    )
    names = ["mine", other, "composed", "icl", "truncated_icl", "no_context"]
    assert [result.system for result in results] == names
    assert results[0].replies == results[3].replies != results[5].replies, "a prefill of the corpus is ICL"
    network = tiny_model("llama")
    direct = evaluate(network, renderer, icl(network, renderer, ids), WordTask(), max_new_tokens=3)
    assert results[3].replies == direct.replies
    assert results[2].num_kv_tokens == results[0].num_kv_tokens + results[1].num_kv_tokens - 1
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[2:]] == names
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["model"] == model_folder and report["task"] == "WordTask"
    assert [result["system"] for result in report["results"]] == names
    assert len(report["results"][0]["replies"]) == 7
    assert Evaluation.read(tmp_path / "new" / "report.json").results == tuple(results)
    assert (report["corpus"], report["corpus_tokens"]) == ("corpus.txt", len(ids))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"], (
        "written beside, then renamed"
    )


def test_scores_are_written_on_the_cards_of_folders(tmp_path, model_folder, corpus):
    mine = save_cartridge(tmp_path / "mine", model_folder)
    options = {"task": WordTask(), "corpus": corpus, "max_new_tokens": 3, "progress": False, "on_card": True}
    results = evaluate_command(cartridges=[f"x={mine}"], systems=["icl"], **options)
    scores = Cartridge.from_pretrained(mine).provenance.notes["scores"]
    assert [(one["system"], one["answer_log_likelihood"]) for one in scores] == [
        ("cartridge", results[0].answer_log_likelihood),
        ("icl", results[1].answer_log_likelihood),
    ]
    with pytest.raises(EvalError, match="on_card=true needs folders"):
        evaluate_command(cartridges=["some/where"], **options)


def test_icl_that_does_not_fit_is_left_out_and_said_so(tmp_path, model_folder, capsys):
    corpus = save_corpus(tmp_path / "long.txt", num_tokens=600)
    results = evaluate_command(
        task=WordTask(),
        model=model_folder,
        corpus=corpus,
        systems=["icl", "truncated_icl"],
        max_new_tokens=3,
        progress=False,
    )
    assert [result.system for result in results] == ["truncated_icl"]
    assert "left out icl: the corpus takes 602 tokens" in capsys.readouterr().out


def test_a_corpus_beyond_the_context_is_streamed(tmp_path, model_folder, capsys):
    results = evaluate_command(
        task=WordTask(),
        model=model_folder,
        corpus=save_corpus(tmp_path / "long.txt", num_tokens=600),
        systems=["icl", "cascade", "streaming_llm"],
        cascade=CascadeOptions(total_tokens=36, cascades=4, stride_tokens=16),
        max_new_tokens=3,
        progress=False,
    )
    assert [(result.system, result.num_kv_tokens) for result in results] == [
        ("cascade", 36),
        ("streaming_llm", 36),
    ]
    assert "left out icl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"systems": ["rag"]}, r"systems=\['rag'\] must name some of cascade, icl, no_context"),
        ({}, "nothing to evaluate"),
        ({"systems": ["no_context", "icl"], "model": "m"}, "icl needs the corpus; set corpus"),
        ({"cartridges": ["a"], "compose": True}, "compose=true needs at least 2 cartridges, got 1"),
        ({"cartridges": ["nowhere"]}, r"nowhere' holds no cartridge\.safetensors"),
        ({"systems": ["no_context"]}, "no cartridge names its model; set model"),
        ({"systems": ["no_context"], "task": Answered([])}, "task=Answered gives no questions"),
        ({"systems": ["icl"], "model": "m", "corpus": "nowhere.txt"}, "no such file"),
        ({"systems": ["streaming_llm"], "model": "m"}, "streaming_llm needs the corpus; set corpus"),
        (
            {"systems": ["cascade"], "model": "m", "corpus": "c", "cascade": CascadeOptions(total_tokens=30)},
            "total_tokens=30 does not leave 4 equal sub-caches",
        ),
    ],
)
@pytest.mark.usefixtures("unloaded")
def test_bad_settings(model_folder, corpus, options, message):
    options = {**options, **({"corpus": corpus} if options.get("corpus") == "c" else {})}
    options = {**options, **({"model": model_folder} if options.get("model") == "m" else {})}
    with pytest.raises(ValueError, match=message):
        evaluate_command(**({"task": WordTask(), "progress": False} | options))


@pytest.mark.usefixtures("unloaded")
def test_a_cartridge_for_another_model_is_refused_by_what_differs(tmp_path, model_folder):
    path = save_cartridge(tmp_path / "x", "theirs", architecture="qwen3")
    with pytest.raises(ValueError, match=r"x \(of theirs\) does not fit .*head_dim: 16 against 8"):
        evaluate_command(task=WordTask(), cartridges=[path], model=model_folder)


@pytest.mark.usefixtures("unloaded")
def test_a_cartridge_that_leaves_no_room_or_a_name_that_is_taken(tmp_path, model_folder):
    path = save_cartridge(tmp_path / "x", model_folder, ids=[5] * 500)
    with pytest.raises(
        ValueError, match="x: 500 positions in front and up to .* do not fit max_position_embeddings=512"
    ):
        evaluate_command(task=WordTask(), cartridges=[path], progress=False)
    with pytest.raises(ValueError, match="the name 'icl' is taken"):
        evaluate_command(task=WordTask(), cartridges=[f"icl={path}"])


def test_an_empty_corpus_is_refused(tmp_path, model_folder, unloaded):
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match="the corpus is empty"):
        evaluate_command(
            task=WordTask(), model=model_folder, systems=["icl"], corpus=str(tmp_path / "empty.txt")
        )


def test_the_command_line_takes_a_path_as_the_corpus(tmp_path, model_folder, corpus, capsys):
    """A parser may take the file's content for the value instead: the documented call would then name no file."""
    from lit_cartridges.cli import main

    out = tmp_path / "report.json"
    task = ["--task=tests.evals.words.WordTask"]
    main(
        [
            "evaluate",
            *task,
            f"--model={model_folder}",
            f"--corpus={corpus}",
            "--systems=[icl]",
            "--max_new_tokens=3",
            "--progress=false",
            f"--out={out}",
        ]
    )
    assert json.loads(out.read_text())["results"][0]["system"] == "icl"
