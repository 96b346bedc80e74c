"""RULER and MRCR-like tasks: their settings, their files, and how they are asked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.errors import CartridgesError
from lit_cartridges.evals import EvalError, Mrcr, MrcrCorpus, Ruler, RulerCorpus
from lit_cartridges.evals.asked import asked
from lit_cartridges.models import load_tokenizer
from tests.tiny_run import save_model

DATA = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
CITIES = ("Arn", "Bel", "Cor", "Dun", "Elm", "Fen")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "speech.txt").write_text(" ".join(f"The {i}th year was good." for i in range(50)))
    paragraphs = [
        {
            "context": f"The mayor of {city} is called Mr {city}son.",
            "qas": [
                {
                    "question": f"Who is mayor of {city}?",
                    "answers": [{"text": f"{city}son", "answer_start": 27 + len(city)}],
                }
            ],
        }
        for city in CITIES
    ]
    (folder / "squad.json").write_text(json.dumps({"data": [{"title": "Mayors", "paragraphs": paragraphs}]}))
    hotpot = [
        {
            "question": f"Which river flows through the city of Mr {city}son?",
            "answer": f"the {city}e",
            "context": [
                [f"{city}son", [f"Mr {city}son is mayor of {city}."]],
                [city, [f"{city} is a city.", f" It lies on the {city}e."]],
            ],
        }
        for city in CITIES
    ]
    (folder / "hotpot.json").write_text(json.dumps(hotpot))
    return folder


def test_the_corpus_is_the_text_that_is_asked_about(model, files):
    settings = {"kind": "niah_multivalue", "model": model, "num_tokens": 400, "questions_per_text": 3}
    task = Ruler(**settings, haystack=files / "speech.txt")
    corpus = RulerCorpus(**settings, haystack=files / "speech.txt")
    assert len(task.questions()) == 3
    for question in task.questions():
        assert all(value in corpus.text for value in question.values) and len(question.values) == 4
        assert question.answer == ", ".join(question.values)
        assert task.score(question, f"{question.values[0]} and {question.values[3]}") == 0.5
        assert not task.is_right(question, question.values[0]) and task.is_right(question, question.answer)
    tokens = len(corpus.token_ids(load_tokenizer(model)))
    assert 330 - 128 < tokens < 400 - 128
    other = RulerCorpus(**settings, haystack=files / "speech.txt", index=1)
    assert other.text != corpus.text and corpus.shown_name == "niah_multivalue 400 0.0"


def test_questions_come_from_files_in_two_layouts(model, files):
    one = Ruler(
        kind="qa_1", model=model, num_tokens=120, documents=files / "squad.json", questions_per_text=2
    )
    assert one.made.text.count("Document ") == 4 and len(one.questions()) == 2
    city = one.questions()[0].answer.removesuffix("son")
    assert f"mayor of {city}" in one.made.text and f"mayor of {city}" in one.questions()[0].prompt
    two = Ruler(kind="qa_2", model=model, num_tokens=130, documents=files / "hotpot.json")
    (question,) = two.questions()
    needed = question.answer.removeprefix("the ").removesuffix("e")
    assert (
        f"{needed}son\nMr {needed}son is mayor" in two.made.text
        and f"lies on the {needed}e." in two.made.text
    )
    assert two.is_right(question, f"It is The {needed}e!") and not two.is_right(question, "the Po")


@pytest.mark.parametrize("content", ["[]", "{}", '[{"question": "Q?"}]', '[{"question": 1, "answer": "a"}]'])
def test_another_layout_is_refused(content, model, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(EvalError, match=r"^documents='.*a\.json' is not in HotpotQA's layout"):
        Ruler(kind="qa_2", model=model, documents=tmp_path / "a.json")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "niah_single_2"}, "kind='niah_single_2' needs a haystack"),
        ({"kind": "qa_1"}, "a file in SQuAD's layout"),
        ({"kind": "qa_2"}, "a file in HotpotQA's layout"),
        ({"kind": "cwe", "questions_per_text": 2}, "there is one question about such a text"),
        ({"kind": "vt", "num_tokens": 70}, "num_tokens=70 is too short"),
        ({"kind": "niah"}, "kind='niah'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, told, model):
    with pytest.raises(CartridgesError, match=told):
        Ruler(**settings, model=model)


def test_a_reply_is_opened_by_the_lead_and_the_answer_stands_behind_it(model):
    renderer = ChatRenderer(load_tokenizer(model))
    task = Ruler(kind="niah_single_1", model=model, num_tokens=300)
    (one,) = asked(renderer, task.questions(), after_context=True)
    (question,) = task.questions()
    plain = asked(renderer, [type(question)(prompt=question.prompt, answer="x")], after_context=True)[
        0
    ].prompt_ids
    lead = renderer.encoder.following(question.lead)
    assert one.prompt_ids == plain + lead and len(one.answer_ids) == 1
    bare = asked(renderer, task.questions(), after_context=False)[0].prompt_ids
    assert bare[-len(lead) :] == lead and bare != one.prompt_ids


def test_a_lead_and_its_answer_are_read_as_one_text(letters):
    renderer = ChatRenderer(letters)
    lead, answer = "The number is", "42"
    whole = renderer.encoder.following(renderer.pieces.answer_open, f"{lead} {answer}")
    opening = renderer.encoder.following(renderer.pieces.answer_open, lead)
    assert opening + renderer.answer_ids(answer, lead=lead) == whole


@pytest.fixture(scope="module")
def letters():
    """A tokenizer to which every character is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {chr(i): i for i in range(128)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="\0"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="\0")


def test_similar_requests_are_scored_as_they_are_asked(model, files):
    settings = {"model": model, "num_tokens": 900, "needles": 2}
    task = Mrcr(**settings, lines=files / "speech.txt")
    corpus = MrcrCorpus(**settings, lines=files / "speech.txt")
    assert corpus.text == task.made.text and "th year was good." in corpus.text
    question = task.questions()[1]
    assert task.is_right(question, question.answer) and question.answer[10:] in corpus.text
    assert task.score(question, question.answer[10:]) == 0 < task.score(question, question.answer[:60]) < 1
    tagged = Mrcr(**settings, score_by="token_f1")
    (first, _) = tagged.questions()
    assert tagged.score(first, f"Well. {first.answer}") == 1 and tagged.score(first, first.values[1]) == 0


@pytest.mark.parametrize("kind", ["niah_single_2", "qa_1"])
def test_the_real_files_make_contexts(kind, model):
    speeches, articles = DATA / "speeches" / "inaugural", DATA / "xquad" / "xquad.en.json"
    if not articles.is_file():
        pytest.skip(f"{DATA} is not there: no speeches, and no questions of XQuAD's")
    task = Ruler(kind=kind, model=model, haystack=speeches, documents=articles, questions_per_text=8)
    assert len(task.questions()) == 8
    assert all(any(value in task.made.text for value in one.values) for one in task.questions())
