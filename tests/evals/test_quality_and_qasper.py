"""QuALITY and QASPER in their files' layouts, with made-up content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_cartridges.evals.tasks import EvalError, Qasper, QasperCorpus, Quality, QualityCorpus

OPTIONS = ["red", "green", "blue", "black"]


def quality_file(path: Path) -> Path:
    asked = {"question": "Which colour?", "options": OPTIONS, "gold_label": 3, "difficult": 0}
    lines = [
        {"article_id": "7", "article": "It was blue.", "questions": [asked]},
        {"article_id": "7", "article": "It was blue.", "questions": [asked, asked]},
        {"article_id": "8", "article": "Nobody knows.", "questions": [asked]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def qasper_files(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    sections = [{"section_name": "Data", "paragraphs": ["Ten texts.", "In two languages."]}]
    papers = {
        name: {"title": f"On {name}", "abstract": "We ask.", "full_text": sections} for name in ("1", "2")
    }
    asked = {"question": "How many texts has On 1?", "answer": "ten"}
    (folder / "papers.json").write_text(json.dumps(papers))
    (folder / "questions.jsonl").write_text(
        json.dumps(asked) + "\n" + json.dumps({**asked, "answer": "10 texts"})
    )
    return {"questions": folder / "questions.jsonl", "papers_file": folder / "papers.json"}


def test_two_lines_about_one_article_are_one(tmp_path):
    file = quality_file(tmp_path / "dev.jsonl")
    task = Quality(path=file)
    assert [one.group for one in task.questions()] == ["7", "7", "7", "8"]
    question = task.questions()[0]
    assert question.answer == "C" and task.is_right(question, "C") and not task.is_right(question, "green")
    assert QualityCorpus(path=file).text == "It was blue.\n\nNobody knows."
    assert QualityCorpus(path=file, articles=["8"]).text == "Nobody knows."
    thinking = Quality(path=file, articles=["8"], style="attention_matching")
    (question,) = thinking.questions()
    assert "C. blue" in question.prompt and "(A, B, C, or D)" in question.prompt
    assert thinking.is_right(question, "<think>A?</think>C")
    tagged = Quality(path=file, style="cartridges")
    assert tagged.is_right(tagged.questions()[0], "<answer>Blue</answer>")


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        ("{}", {}, "line 1 is not in QuALITY's layout"),
        (
            '{"article_id": "1", "article": "a", "questions": [{"question": "?", "options": ["a"], "gold_label": 2}]}',
            {},
            "question 0",
        ),
        ("", {}, "holds no articles"),
        (None, {"articles": ["9"]}, r"articles=\['9'\] are not in .*it has 7, 8"),
        (None, {"articles": []}, r"articles=\[\]"),
    ],
)
def test_a_file_that_is_not_qualitys(tmp_path, text, options, why):
    file = quality_file(tmp_path / "x.jsonl")
    if text is not None:
        file.write_text(text)
    with pytest.raises(EvalError, match=why):
        Quality(path=file, **options)


def test_qasper_scores_answers_in_their_tags(tmp_path):
    files = qasper_files(tmp_path)
    first, second = Qasper(path=files["questions"]).questions()
    assert first.answer == "<answer>\nten\n</answer>" and second.answer == "<answer>\n10 texts\n</answer>"
    assert "<question>\nHow many texts has On 1?\n</question>" in first.prompt
    text = QasperCorpus(path=files["papers_file"], papers=["2"]).text
    assert text == "On 2\n\nWe ask.\n\nData\n\nTen texts.\n\nIn two languages."
    with pytest.raises(EvalError, match=r"papers=\['3'\] are not all in .*it has 1, 2"):
        QasperCorpus(path=files["papers_file"], papers=["3"])
    files["papers_file"].write_text('{"1": {"title": "x"}}')
    with pytest.raises(EvalError, match="1 has no title and full_text"):
        QasperCorpus(path=files["papers_file"], papers=["1"])
    files["papers_file"].write_text("[")
    with pytest.raises(EvalError, match="cannot be read"):
        QasperCorpus(path=files["papers_file"], papers=["1"])
    files["questions"].write_text('{"question": "?"}')
    with pytest.raises(EvalError, match="line 1 has no texts question and answer"):
        Qasper(path=files["questions"])
