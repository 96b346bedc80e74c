"""Recorded answers: their own tokens are scored, and how far a system is from the teacher that wrote them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lit_cartridges.commands import evaluate as command
from lit_cartridges.commands.evaluate import evaluate_command
from lit_cartridges.conversations.conversation import Conversation, Message
from lit_cartridges.conversations.parquet import read_conversations, write_conversations
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.conversations.tokenizer_check import RecordingError
from lit_cartridges.conversations.top_logprobs import TopLogprobs
from lit_cartridges.evals import EvalError, HeldOutConversations, evaluate, no_context, text_table
from tests.tiny_models import VOCAB, tiny_model
from tests.tiny_run import conversation as random_conversation
from tests.tiny_run import message, save_recording, tokenizer


def recorded_by(model, index: int, *, k: int = VOCAB) -> Conversation:
    """A conversation whose log-probabilities are this model's, without any context."""
    made = random_conversation(index)
    question, answer = made.messages
    ids = ChatRenderer(tokenizer()).bare_prompt_ids([user(question.content)])
    with torch.no_grad():
        logits = model(torch.tensor([ids + answer.token_ids.tolist()])).logits[0, len(ids) - 1 : -1]
    values, places = logits.log_softmax(-1).topk(k)
    top = TopLogprobs.from_dense(places.numpy(), values.numpy(), min_mass=1.0)
    return Conversation((question, message("assistant", answer.token_ids, top)), "", made.metadata)


def measured(tmp_path, model, conversations):
    write_conversations(tmp_path / "held_out.parquet", conversations)
    task = HeldOutConversations(path=tmp_path / "held_out.parquet")
    return evaluate(model, ChatRenderer(tokenizer()), no_context(), task, batch_size=3, max_new_tokens=2)


def test_the_teacher_itself_is_at_no_distance(tmp_path):
    model = tiny_model("llama")
    result = measured(tmp_path, model, [recorded_by(model, i) for i in range(5)])
    assert result.teacher_divergence == pytest.approx(0, abs=1e-5)
    assert all(reply.teacher_divergence == pytest.approx(0, abs=1e-5) for reply in result.replies)


def test_of_another_model_it_is_the_divergence_and_the_likelihood_of_the_recorded_tokens(tmp_path):
    teacher, model = tiny_model("llama"), tiny_model("qwen2")
    conversations = [recorded_by(teacher, i) for i in range(4)]
    result = measured(tmp_path, model, conversations)
    divergences, likelihoods = [], []
    for one in conversations:
        ids = ChatRenderer(tokenizer()).bare_prompt_ids([user(one.messages[0].content)])
        answer = one.messages[1].token_ids.tolist()
        with torch.no_grad():
            logprobs, theirs = (
                m(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
                for m in (model, teacher)
            )
        divergences.append((theirs.exp() * (theirs - logprobs)).sum(1))
        likelihoods.append(logprobs[torch.arange(len(answer)), answer])
    assert result.teacher_divergence == pytest.approx(torch.cat(divergences).mean().item(), abs=1e-4)
    assert result.answer_log_likelihood == pytest.approx(torch.cat(likelihoods).mean().item(), abs=1e-4)
    assert result.teacher_divergence > 0.01
    assert result.metrics["teacher_divergence"] == result.teacher_divergence
    head, _, row = text_table([result]).split("\n")
    assert head.endswith("KL to teacher") and row.endswith(f"{result.teacher_divergence:.3f}")


def test_rows_of_unequal_records_stand_beside_each_other(tmp_path):
    model = tiny_model("llama")
    mixed = [recorded_by(model, 0, k=3), recorded_by(model, 1, k=9)]
    alone = [measured(tmp_path, model, [one]).teacher_divergence for one in mixed]
    lengths = [one.num_answer_tokens for one in mixed]
    together = measured(tmp_path, model, mixed).teacher_divergence
    assert together == pytest.approx(np.average(alone, weights=lengths), abs=1e-5)


def test_a_recording_without_log_probabilities_is_refused(tmp_path):
    save_recording(tmp_path / "plain.parquet", 2, top_logprobs=False)
    with pytest.raises(EvalError, match="conversation 0 has no answer with token ids and the teacher's"):
        HeldOutConversations(path=tmp_path / "plain.parquet")


def test_another_tokenizers_recording_is_refused_before_the_model_is_loaded(
    tmp_path, model_folder, monkeypatch
):
    monkeypatch.setattr(command, "load_model", lambda *args, **options: pytest.fail("a model was loaded"))
    path = save_recording(tmp_path / "a.parquet", 2)
    made = read_conversations(path)
    foreign = [Conversation(c.messages, "", {**c.metadata, "tokenizer_fingerprint": "f" * 64}) for c in made]
    write_conversations(path, foreign)
    with pytest.raises(RecordingError, match="was made with another tokenizer"):
        evaluate_command(task=HeldOutConversations(path=path), model=model_folder, systems=["no_context"])


def test_the_questions_are_the_first_of_each_conversation(tmp_path):
    task = HeldOutConversations(path=save_recording(tmp_path / "a.parquet", 3))
    made = read_conversations(tmp_path / "a.parquet")
    assert [q.prompt for q in task.questions()] == [c.messages[0].content for c in made]
    assert all(isinstance(q.recorded, Message) for q in task.questions())
    assert task.describe() == "HeldOutConversations a.parquet"
