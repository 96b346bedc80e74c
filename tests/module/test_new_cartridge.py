"""What a run hands to its init strategy: the corpus, the template, and self-study by the bound teacher."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.data import Student
from lit_cartridges.init import InitialTensors, InitStrategy
from lit_cartridges.module.new_cartridge import init_context
from tests.tiny_models import tiny_model
from tests.tiny_run import (
    Curve,
    new_data,
    new_module,
    new_trainer,
    same_tensors,
    save_corpus,
    save_model,
    tokenizer,
)


@pytest.fixture
def data(tmp_path, llama):
    return connected(llama, save_corpus(tmp_path / "corpus.txt"))


def connected(model, corpus, **options):
    data = new_data(corpus, **options)
    data.connect(Student(tokenizer=tokenizer(), config=model.config))
    data.bind_teacher(model)
    return data


class Looking(InitStrategy):
    """Keeps what it saw, and starts with biases."""

    def __init__(self, conversations: int = 6) -> None:
        self.count = conversations

    def tensors(self, context):
        self.context, self.seen = context, context.conversations(self.count, self)
        keys, values = prefill(context.model, list(context.context_ids[: context.num_tokens]))
        return InitialTensors(keys, values, [torch.full(key.shape[:2], 0.5) for key in keys])


def test_the_context_holds_the_corpus_behind_the_templates_opening(data, llama):
    context = init_context(data.material, llama, num_tokens=8, seed=3)
    assert list(context.opening_ids) == data.material.renderer.context_ids([])
    assert list(context.context_ids) == [*context.opening_ids, *data.material.corpus_ids.tolist()]
    assert (context.num_tokens, context.seed, context.progress) == (8, 3, False)


def test_conversations_are_the_teachers_own_as_a_student_reads_them(data, llama):
    """The answers are what the plain model says with the chunk in its context, greedily."""
    synthesizer = data.source.synthesizer(seed=3 + 2_000_003)
    expected = [c for group in range(2) for c in synthesizer.conversations(group)][:5]
    got = init_context(data.material, llama, num_tokens=8, seed=3).self_study(5)
    assert len(got) == 5
    for ids, conversation in zip(got, expected, strict=True):
        question, answer = conversation.messages
        assert ids == [*data.material.renderer.prompt_ids([question]), *answer.token_ids.tolist()]
        start, count = (conversation.metadata[k] for k in ("chunk_start_token", "chunk_num_tokens"))
        chunk = data.material.corpus_ids[start : start + count]
        row = [*data.material.renderer.context_ids(chunk), *data.material.renderer.prompt_ids([question])]
        answer_ids = answer.token_ids.tolist()
        logits = tiny_model("llama")(torch.tensor([row + answer_ids])).logits[0, len(row) - 1 : -1]
        assert logits.argmax(-1).tolist() == answer_ids


def test_the_seed_decides_them_and_they_are_none_of_the_streams(data, llama):
    first, again, other = (
        init_context(data.material, llama, num_tokens=8, seed=seed).self_study(4) for seed in (0, 0, 1)
    )
    assert first == again != other
    streamed = [
        data.material.renderer.conversation_ids(c.messages)[0].tolist()
        for group in range(4)
        for c in data.source.synthesizer(seed=0).conversations(group)
    ]
    assert not any(ids in streamed for ids in first)


def test_they_come_from_several_chunks_and_are_about_the_corpus_alone(tmp_path, llama, monkeypatch):
    corpus = save_corpus(tmp_path / "corpus.txt", num_tokens=400)
    other = save_corpus(tmp_path / "other.txt", seed=9)
    from lit_cartridges.corpora.open_corpus import TextCorpus

    data = connected(
        llama, corpus, conversations_per_group=16, off_corpus=TextCorpus(path=other), off_corpus_share=1.0
    )
    read = []
    contexts = data.source.teacher._contexts
    of = contexts.of
    monkeypatch.setattr(contexts, "of", lambda model, ids, needed: read.append(ids) or of(model, ids, needed))
    assert len(init_context(data.material, llama, num_tokens=8, seed=0).self_study(8)) == 8
    text = tuple(data.material.corpus_ids.tolist())
    assert len(set(read)) >= 2
    assert all(any(ids[2:] == text[i : i + len(ids) - 2] for i in range(400)) for ids in read)


def test_a_chunk_that_does_not_fit_the_context_is_refused_before_anything_is_made(tmp_path, llama):
    corpus = save_corpus(tmp_path / "corpus.txt", num_tokens=900)
    with pytest.raises(
        ValueError, match=r"max_chunk_tokens=800, .* a chunk .* do not fit the model's 512 positions"
    ):
        connected(llama, corpus, max_chunk_tokens=800)


def test_a_run_lets_its_strategy_see_all_of_it_trains_biases_and_makes_the_same_stream(tmp_path):
    model, corpus = save_model(tmp_path / "model"), save_corpus(tmp_path / "corpus.txt")
    runs = []
    for name, init in (("looking", Looking()), ("again", Looking())):
        module, curve = new_module(model, init=init, seed=5), Curve()
        new_trainer(tmp_path / name, curve, max_steps=2).fit(module, new_data(corpus))
        runs.append((module, curve))
        assert len(init.seen) == 6 and init.context.seed == 5
        assert module.cartridge.provenance.init == "Looking"
    assert same_tensors(runs[0][0].state_dict(), runs[1][0].state_dict())
    biases = [b.detach() for b in runs[0][0].cartridge.biases()]
    assert all(torch.equal(b[:, :1], torch.full((2, 1), 0.5)) for b in biases)  # the frozen position
    assert all(float((b[:, 1:] - 0.5).abs().min()) > 0 for b in biases)  # all others move

    plain, curve = new_module(model, seed=5), Curve()
    new_trainer(tmp_path / "plain", curve, max_steps=2).fit(plain, new_data(corpus))
    for mine, theirs in zip(runs[0][1].batches, curve.batches, strict=True):
        assert torch.equal(mine.input_ids, theirs.input_ids)
    assert plain.cartridge.biases() is None
