"""Conversations that other systems wrote: HazyResearch's Parquet, PEFT's JSONL."""

from __future__ import annotations

import copy
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import AddedToken

from lit_cartridges.conversations.parquet import read_conversations
from lit_cartridges.conversations.recorded import RecordedConversations
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.conversations.tokenizer_check import RecordingError
from lit_cartridges.data.sources.example_source import ConversationExamples
from tests.tiny_run import END, tokenizer


def ids(text):
    return tokenizer().encode(text, add_special_tokens=False)


def flat(token_ids, k=3, dtype=np.float32):
    """`TopLogprobs.flatten` of theirs: rows cut at 0.99 of the mass, and only the first entry of those that never get there."""
    rng = np.random.default_rng(len(token_ids))
    logprobs = np.sort(np.log(rng.dirichlet(np.ones(k + 1), len(token_ids))[:, :k]))[:, ::-1].astype(dtype)
    top = np.stack([np.roll(np.arange(10, 10 + k), i) for i in range(len(token_ids))]).astype(np.int32)
    kept = np.arange(k) < (np.exp(logprobs).cumsum(1) >= 0.99).argmax(1)[:, None] + 1
    return {
        "token_idx": np.repeat(np.arange(len(token_ids)), k)[kept.ravel()],
        "token_id": top[kept],
        "logprobs": logprobs[kept],
        "shape": (len(token_ids), k),
    }


def their_message(role, text, *, end=False, top=False, encoded=True, dtype=np.float32):
    token_ids = ids(text) + [END] * end if encoded else None
    return {
        "content": text,
        "role": role,
        "token_ids": token_ids,
        "top_logprobs": flat(token_ids, dtype=dtype) if top else None,
    }


def their_file(path, rows):
    """`_conversations_to_parquet` of theirs."""
    pq.write_table(pa.Table.from_pylist(rows), path, compression="snappy")
    return path


def their_row(*messages, **changed):
    row = {
        "messages": list(messages),
        "system_prompt": "w5 w6",
        "metadata": {"tool_calls": []},
        "type": "todo",
    }
    return row | changed


def question_and_answer(**options):
    return their_message("user", "w1 w2", encoded=False), their_message(
        "assistant", "w3 w4", end=True, top=True, **options
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_their_parquet_is_read(dtype, tmp_path):
    (conversation,) = read_conversations(
        their_file(tmp_path / "a.parquet", [their_row(*question_and_answer(dtype=dtype))]),
        tokenizer=tokenizer(),
    )
    question, answer = conversation.messages
    assert (question.content, question.token_ids.tolist(), question.top_logprobs) == (
        "w1 w2",
        ids("w1 w2"),
        None,
    )
    assert answer.token_ids.tolist() == [*ids("w3 w4"), END]
    expected = flat(answer.token_ids, dtype=dtype)
    for name in ("token_idx", "token_id", "logprobs"):
        assert np.array_equal(getattr(answer.top_logprobs, name), expected[name].astype(np.float32))
    assert (conversation.system_prompt, conversation.type) == ("w5 w6", "todo")


def test_several_rounds_questions_with_end_tokens_and_fields_left_empty(tmp_path):
    rounds = [
        their_message("user", "w1", end=True, top=True),
        their_message("assistant", "w3", top=True),
        their_message("user", "w7", end=True, top=True),
        their_message("assistant", "w8", end=True, top=True),
    ]
    rows = [
        their_row(*rounds, system_prompt=None, type=None),
        their_row(*rounds[:2], system_prompt=None, type=None),
    ]
    first, second = read_conversations(their_file(tmp_path / "a.parquet", rows), tokenizer=tokenizer())
    assert [m.content for m in first.messages] == ["w1", "w3", "w7", "w8"] and len(second.messages) == 2
    assert (first.system_prompt, first.type) == ("", "self_study")


def test_metadata_keeps_what_is_text_or_a_number(tmp_path):
    call = {"name": "search", "input": {"q": "w1"}, "success": True}
    metadata = {"tool_calls": [call], "seed_prompt": "question", "round": 2, "cut": True, "note": None}
    file = their_file(tmp_path / "a.parquet", [their_row(*question_and_answer(), metadata=metadata)])
    (conversation,) = read_conversations(file, tokenizer=tokenizer())
    assert conversation.metadata == {"seed_prompt": "question", "round": 2, "cut": 1}


def test_their_file_becomes_training_examples(tmp_path):
    file = their_file(tmp_path / "a.parquet", [their_row(*question_and_answer()) for _ in range(3)])
    source = RecordedConversations(file, tokenizer=tokenizer())
    examples = ConversationExamples(
        source, ChatRenderer(tokenizer()), top_k=3, needs_top_logprobs=True
    ).examples(0)
    assert len(examples) == 3
    assert examples[0].target_ids.tolist() == [*ids("w3 w4"), END] and examples[0].top_ids.shape == (3, 3)


def their_line(question, answer, corpus="w5 w6 w7", *, tokenizer=tokenizer):
    """A record of PEFT's `synthesize.py`."""
    system, user = {"role": "system", "content": corpus}, {"role": "user", "content": question}
    teacher, student = (
        tokenizer().apply_chat_template(
            chat, tokenize=True, add_generation_prompt=True, enable_thinking=False, return_dict=False
        )
        for chat in ([system, user], [user])
    )
    answer_ids = [*tokenizer().encode(answer, add_special_tokens=False), END]
    return {
        "teacher_input_ids": teacher + answer_ids,
        "student_input_ids": student + answer_ids,
        "ctx_len": len(teacher) - len(student),
    }


def jsonl(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


DATES = "26 Jul 2024 3 Nov 2026"
# Other ways to render a chat: a default system message, an end of turn with a date in front, no system role at all.
TEMPLATES = {
    "own": None,
    "default system": (
        "{% if messages[0]['role'] != 'system' %}<system> w80 w81 <end> {% endif %}"
        "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}<assistant>"
    ),
    "dated": (
        "<bos> <system> w85 26 Jul 2024 {% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %} <end> "
        "{% for m in messages if m['role'] != 'system' %}<user> {{ m['content'] }} <end> {% endfor %}<assistant>"
    ),
    "in the user's turn": (
        "<bos> <user> {% for m in messages %}{{ m['content'] }}"
        "{% if m['role'] == 'system' %} w86 {% endif %}{% endfor %} <end> <assistant>"
    ),
}


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_their_jsonl_is_taken_apart(template, tmp_path):
    ours, their = copy.deepcopy(tokenizer()), copy.deepcopy(tokenizer())
    for known in (ours, their):
        known.add_tokens([AddedToken(word, single_word=True) for word in DATES.split()])
        known.chat_template = TEMPLATES[template] or known.chat_template
    their.chat_template = their.chat_template.replace("26 Jul 2024", "3 Nov 2026")  # made on another day
    lines = [
        their_line("w1 w2", "w3", tokenizer=lambda: their),
        their_line("w8", "w9 w9", corpus="w10", tokenizer=lambda: their),
    ]
    first, second = read_conversations(jsonl(tmp_path / "a.jsonl", *lines), tokenizer=ours)
    question, answer = first.messages
    assert (question.content, question.token_ids.tolist()) == ("w1 w2", ids("w1 w2"))
    assert (answer.content, answer.token_ids.tolist()) == ("w3", [*ids("w3"), END])
    assert answer.top_logprobs is None
    assert [m.content for m in second.messages] == ["w8", "w9 w9"]
    assert (first.system_prompt, second.system_prompt) == ("w5 w6 w7", "w10")
    assert (first.metadata, first.type) == ({"line": 1}, "self_study")


def test_their_jsonl_becomes_the_examples_of_our_own_rendering(tmp_path):
    """The student reads what PEFT's student reads, and the teacher what PEFT's teacher reads."""
    line = their_line("w1 w2", "w3 w4")
    source = RecordedConversations(jsonl(tmp_path / "a.jsonl", line), tokenizer=tokenizer())
    renderer = ChatRenderer(tokenizer())
    (example,) = ConversationExamples(
        source, renderer, context_of=lambda c: renderer.context_ids(ids(c.system_prompt))
    ).examples(0)
    assert example.target_ids.tolist() == [*ids("w3 w4"), END]
    assert [*example.context_ids, *example.token_ids.tolist(), END] == line["teacher_input_ids"]


def test_a_line_without_context_is_off_corpus(tmp_path):
    line = their_line("w1", "w3")
    line |= {"teacher_input_ids": line["student_input_ids"], "ctx_len": 0}
    (conversation,) = read_conversations(jsonl(tmp_path / "a.jsonl", line), tokenizer=tokenizer())
    assert (conversation.system_prompt, conversation.type) == ("", "off_corpus")


def test_an_objective_that_needs_log_probabilities_says_so(tmp_path):
    source = RecordedConversations(jsonl(tmp_path / "a.jsonl", their_line("w1", "w3")), tokenizer=tokenizer())
    with pytest.raises(ValueError, match="without the teacher's log-probabilities"):
        ConversationExamples(source, ChatRenderer(tokenizer()), needs_top_logprobs=True).examples(0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ctx_len": 2}, "ctx_len=2 apart"),
        ({"ctx_len": "gone"}, "not of PEFT's schema: 'ctx_len'"),
        ({"student_input_ids": [7, 8, 9]}, "do not follow the tokenizer's chat template"),
        ({"student_input_ids": None}, "not of PEFT's schema"),
        ({"teacher_input_ids": "abc"}, "not of PEFT's schema"),
    ],
)
def test_lines_that_do_not_hold_together_are_named(change, told, tmp_path):
    line = {key: value for key, value in (their_line("w1", "w3") | change).items() if value != "gone"}
    with pytest.raises(RecordingError, match=f"a.jsonl, line 2: .*{told}"):
        read_conversations(jsonl(tmp_path / "a.jsonl", their_line("w1", "w3"), line), tokenizer=tokenizer())


def test_another_beginning_is_named(tmp_path):
    line = their_line("w1", "w3")
    line["teacher_input_ids"][1] = ids("w50")[0]
    with pytest.raises(RecordingError, match="teacher_input_ids begin with '<bos> w50"):
        read_conversations(jsonl(tmp_path / "a.jsonl", line), tokenizer=tokenizer())


def test_a_truncated_file_names_its_line(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", their_line("w1", "w3"))
    file.write_text(file.read_text() * 2 + file.read_text()[:20])
    with pytest.raises(RecordingError, match="a.jsonl, line 3: truncated"):
        read_conversations(file, tokenizer=tokenizer())


def test_the_tokenizer_is_asked_for(tmp_path):
    with pytest.raises(RecordingError, match="give the tokenizer that made them"):
        read_conversations(jsonl(tmp_path / "a.jsonl", their_line("w1", "w3")))
