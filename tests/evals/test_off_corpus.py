"""What a system does off its corpus, against one question at a time on the unmodified model."""

from __future__ import annotations

import json

import pytest
import torch

from lit_cartridges.commands.evaluate import evaluate_command
from lit_cartridges.conversations.renderer import user
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.off_corpus import ABSTAINED, DIVERGENCE, LIKELIHOOD, OffCorpus
from lit_cartridges.evals.result_file import Evaluation
from lit_cartridges.evals.systems import icl
from lit_cartridges.evals.table import text_table
from tests.evals.words import Answered, WordTask, sentence, word_renderer

NEW = 6


@torch.no_grad()
def naive(model, context, question):
    """KL(bare ‖ behind the context) and log-likelihoods of the bare model's reply, a whole forward call per token."""
    renderer = word_renderer()
    bare, behind = (
        renderer.bare_prompt_ids([user(question.prompt)]),
        renderer.prompt_ids([user(question.prompt)]),
    )
    reply, divergences, log_likelihoods = [], [], []
    while len(reply) < NEW and renderer.tokenizer.eos_token_id not in reply:
        alone, with_it = (
            model(torch.tensor([ids + reply]), use_cache=False).logits[0, -1].log_softmax(-1)
            for ids in (bare, context + behind)
        )
        reply.append(int(alone.argmax()))
        divergences.append(float((alone.exp() * (alone - with_it)).sum()))
        log_likelihoods.append(float(with_it[reply[-1]]))
    return divergences, log_likelihoods


def test_it_is_the_naive_loop(llama):
    renderer, task = word_renderer(), WordTask(num_questions=5)
    ids = renderer.tokenizer.encode(sentence(20, 7), add_special_tokens=False)
    system = icl(llama, renderer, ids)
    other = OffCorpus(llama, renderer, task, batch_size=3, max_new_tokens=NEW)
    expected = [naive(llama, renderer.context_ids(ids), question) for question in task.questions()]
    found = other.of(system)
    for name, side in ((DIVERGENCE, 0), (LIKELIHOOD, 1)):
        values = [value for pair in expected for value in pair[side]]
        assert found.figures[name].mean == pytest.approx(sum(values) / len(values), abs=2e-4)
    alone = other.of(other.bare)
    assert abs(alone.figures[DIVERGENCE].mean) < 1e-6 < found.figures[DIVERGENCE].mean
    assert alone.figures[LIKELIHOOD].mean > found.figures[LIKELIHOOD].mean


@pytest.mark.parametrize(
    ("reply", "abstains"),
    [
        ("the city of Mira is not known .", True),
        ("I DON'T KNOW.", True),
        ("The text does not contain that.", True),
        ("It is well known.", False),
        ("", False),
    ],
)
def test_a_reply_abstains_by_its_words(llama, reply, abstains):
    other = OffCorpus(llama, word_renderer(), Answered([("w1", "w2")]), max_new_tokens=1)
    assert other.abstains(reply) is abstains


def test_abstentions_are_the_share_of_replies_with_a_phrase(llama):
    task = WordTask(num_questions=7)
    words = OffCorpus(llama, word_renderer(), task, max_new_tokens=NEW)
    replies = [reply.reply.split() for reply in words.of(words.bare).replies]
    phrase = replies[3][0]
    found = OffCorpus(llama, word_renderer(), task, abstentions=[phrase], max_new_tokens=NEW)
    share = sum(phrase in reply for reply in replies) / 7
    assert found.of(found.bare).figures[ABSTAINED].mean == share > 0


def test_an_abstention_without_words_is_refused(llama):
    for phrases in ([], ["not known", "?!"]):
        with pytest.raises(SettingError, match="abstentions=.* must be phrases of at least one word"):
            OffCorpus(llama, word_renderer(), WordTask(), abstentions=phrases)


def test_the_command_prints_a_second_table_and_keeps_it(tmp_path, model_folder, corpus, capsys):
    evaluate_command(
        task=WordTask(),
        model=model_folder,
        corpus=corpus,
        systems=["icl", "no_context"],
        off_corpus=[WordTask(num_questions=3), Answered([("w1 w2", "w3")])],
        out=str(tmp_path / "out.json"),
        max_new_tokens=3,
        progress=False,
    )
    read = Evaluation.read(tmp_path / "out.json")
    assert [(one.system, one.task) for one in read.off_corpus] == [
        (system, task) for system in ("no_context", "icl") for task in ("WordTask", "Answered")
    ]
    printed = capsys.readouterr().out
    for task in ("WordTask", "Answered"):
        table = text_table([one for one in read.off_corpus if one.task == task])
        assert f"\noff the corpus: {task}\n\n{table}" in printed and "KL(bare ‖ system)" in table
    evaluate_command(
        task=WordTask(),
        model=model_folder,
        systems=["no_context"],
        out=str(tmp_path / "b.json"),
        progress=False,
    )
    assert "off_corpus" not in json.loads((tmp_path / "b.json").read_text())
