"""The registry of systems: what each needs and can do, and that one file adds one everywhere."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.callbacks import LongContextEval
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.commands.evaluate import evaluate_command
from lit_cartridges.commands.passkey import passkey_command
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals import systems
from lit_cartridges.evals.systems import (
    SYSTEMS,
    AskedKind,
    ContextTooLong,
    Sizes,
    StreamedKind,
    SystemInput,
    chosen,
    names_of,
    registry,
)
from lit_cartridges.evals.tasks.passkey import EnglishPasskey
from tests.evals.words import WordTask
from tests.tiny_run import tokenizer

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


def given(model, **more) -> SystemInput:
    ids = list(range(3, 43))
    return SystemInput(model=model, renderer=ChatRenderer(tokenizer()), corpus_ids=ids, **more)


def test_what_there_is_and_what_it_needs():
    assert names_of(AskedKind) == ("cascade", "icl", "no_context", "streaming_llm", "truncated_icl")
    assert names_of(StreamedKind) == ("cascade", "dense", "streaming_llm", "truncated")
    assert names_of(AskedKind, with_cartridge=True) == ("cartridge", *names_of(AskedKind))
    assert {name for name, kind in SYSTEMS.items() if not kind.needs_corpus} == {"cartridge", "no_context"}


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_system_can_be_had_by_its_name(llama, name):
    kind = SYSTEMS[name]
    sizes = Sizes(cascade=CascadeOptions(total_tokens=20, cascades=2, stride_tokens=8), reserve_tokens=4)
    kind.check(llama.config, sizes)
    if isinstance(kind, AskedKind):
        cartridge = Cartridge(*prefill(llama, list(range(3, 12))))
        system = kind.read(given(llama, sizes=sizes, cartridge=cartridge))
        assert system.name == name
        assert (system.num_kv_tokens > 0) == (name != "no_context")
    if isinstance(kind, StreamedKind):
        ids = torch.arange(3, 40)[None]
        scores = kind.logprobs(llama, ids, sizes)
        assert scores.shape == (1, 36) and scores.dtype == torch.float32 and (scores < 0).all()
        assert kind.held_tokens(llama.config, ids.tolist(), sizes) == (37 if name == "dense" else 20)


@pytest.mark.parametrize("names", [[], ["rag"], ["icl", "dense"], ["cartridge"]])
def test_names_that_are_none_are_told_with_those_there_are(names):
    with pytest.raises(ValueError, match=r"systems=\[.*\] must name some of cascade, icl, no_context"):
        chosen(names, AskedKind)
    with pytest.raises(ValueError, match=r"systems=\['rag'\] must name some of cartridge, cascade"):
        LongContextEval(task=WordTask(), systems=["rag"])


def test_sizes_are_refused_by_those_that_they_concern(llama):
    wrong = Sizes(cascade=CascadeOptions(total_tokens=30))
    for name, kind in SYSTEMS.items():
        if name in ("cascade", "streaming_llm"):
            with pytest.raises(ValueError, match="total_tokens|stride_tokens"):
                kind.check(llama.config, Sizes(cascade=CascadeOptions(total_tokens=600)))
        else:
            kind.check(llama.config, wrong)


def test_what_does_not_fit_is_told_by_its_name(llama):
    small = given(llama, sizes=Sizes(reserve_tokens=4, max_context_tokens=30))
    with pytest.raises(ContextTooLong, match="^icl: the corpus takes 42 tokens"):
        SYSTEMS["icl"].read(small)
    assert SYSTEMS["truncated_icl"].read(small).num_kv_tokens == 26
    crowded = given(llama, sizes=Sizes(reserve_tokens=600))
    for name in ("icl", "truncated_icl", "no_context"):
        with pytest.raises(ContextTooLong, match=f"^{name}: .*600"):
            SYSTEMS[name].read(crowded)


def test_the_file_that_contributing_shows_adds_a_system_to_all_that_compare(
    tmp_path, monkeypatch, model_folder, corpus
):
    block = next(
        text
        for text in re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(), re.S)
        if "LastICL" in text
    )
    (tmp_path / "last_icl.py").write_text(textwrap.dedent(block))
    monkeypatch.setattr(systems, "__path__", [*systems.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "SYSTEMS", registry.found_systems())
    assert set(registry.SYSTEMS) - set(SYSTEMS) == {"last_icl"}
    options = {"task": WordTask(num_questions=2), "model": model_folder, "corpus": corpus}
    options |= {"max_new_tokens": 2, "progress": False}
    last, whole = evaluate_command(**options, systems=["last_icl", "icl"])
    assert (last.system, last.replies) == ("last_icl", whole.replies), "all of it fits"
    limited = evaluate_command(**options, systems=["last_icl", "truncated_icl"], max_context_tokens=30)
    assert limited[0].num_kv_tokens == limited[1].num_kv_tokens < whole.num_kv_tokens
    assert limited[0].answer_log_likelihood != limited[1].answer_log_likelihood
    language = EnglishPasskey(num_digits=1)
    size = {"lengths": [60], "depths": [0.5], "samples": 1, "max_new_tokens": 2}
    [cell] = passkey_command(model=model_folder, language=language, systems=["last_icl"], **size)
    assert cell.system == "last_icl"
    assert LongContextEval(task=WordTask(), systems=["last_icl"]).systems == ("last_icl",)
