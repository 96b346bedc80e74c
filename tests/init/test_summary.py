"""A summary that the model writes of the corpus: each chunk, then the summaries, until they fit."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.init import Summary
from tests.init.context import CORPUS, OPENING, all_tensors, close, naive_prefill, new_context
from tests.tiny_run import FIRST_WORD, tokenizer

END = 2


class Scripted(Summary):
    """Answers with words of its own, ``reply_tokens`` of them, and remembers what it was asked."""

    def __init__(self, reply_tokens, **options):
        super().__init__(**options)
        self.reply_tokens, self.asked = reply_tokens, []

    def _reply(self, context, context_ids, prompt_ids, max_new_tokens):
        self.asked.append((list(context_ids), list(prompt_ids), max_new_tokens))
        return " ".join(f"w{(len(self.asked) * 10 + i) % 60}" for i in range(self.reply_tokens))


def ids(*numbers):
    return [FIRST_WORD + n for n in numbers]


def prompt_ids(text):
    """As the template lays a user message out, behind the system message."""
    words = tokenizer().encode(text, add_special_tokens=False)
    return [5, *words, 6]  # <user> … <assistant>


def test_map_asks_about_each_chunk_once_in_order(llama):
    strategy = Scripted(3, chunk_tokens=16, map_prompt="w1 w2")
    body = strategy.body_ids(new_context(llama), 12)
    read = [asked[0] for asked in strategy.asked]
    assert [chunk[:2] for chunk in read] == [OPENING] * 4
    assert [i for chunk in read for i in chunk[2:]] == CORPUS
    assert [len(chunk) - 2 for chunk in read] == [16, 16, 16, 12]
    assert all(asked[1] == prompt_ids("w1 w2") for asked in strategy.asked)
    assert body == ids(10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42)


def test_reduce_summarizes_the_summaries_until_they_fit(llama):
    strategy = Scripted(6, chunk_tokens=16, shrink=2, map_prompt="w1", reduce_prompt="w3")
    body = strategy.body_ids(new_context(llama), 7)
    prompts = [asked[1] for asked in strategy.asked]
    # 60 tokens: 4 chunks, whose 24 tokens are 2 chunks, whose 12 tokens are one.
    assert prompts == [prompt_ids("w1")] * 4 + [prompt_ids("w3")] * 3
    first = ids(*(10 * n + i for n in range(1, 5) for i in range(6)))
    assert strategy.asked[4][0] == OPENING + first[:16] and strategy.asked[5][0] == OPENING + first[16:]
    assert strategy.asked[6][0] == OPENING + ids(*range(50, 56), *range(0, 6))
    assert body == [*ids(*range(10, 16)), CORPUS[0]]


def test_what_is_still_too_long_is_cut_and_what_is_too_short_goes_on_with_the_corpus(llama):
    assert Scripted(9).body_ids(new_context(llama), 4) == ids(10, 11, 12, 13)
    assert Scripted(2).body_ids(new_context(llama), 7) == [*ids(10, 11), *CORPUS[:5]]
    assert Scripted(0).body_ids(new_context(llama), 7) == CORPUS[:7]
    short = new_context(llama, corpus=CORPUS[:3])
    assert Scripted(2).body_ids(short, 7) == [*ids(10, 11), *CORPUS[:3], *CORPUS[:2]]


def test_a_model_that_never_gets_shorter_ends_all_the_same(llama):
    strategy = Scripted(30, chunk_tokens=16)
    assert len(strategy.body_ids(new_context(llama), 5)) == 5
    assert len(strategy.asked) == 4


def test_a_summary_may_be_as_long_as_the_cartridge_has_room_for_it(llama):
    strategy = Scripted(3, chunk_tokens=16, shrink=4)
    strategy.body_ids(new_context(llama, 50), 48)
    assert [asked[2] for asked in strategy.asked] == [12] * 4  # 48 / 4 chunks, more than 16 / 4
    strategy = Scripted(3, chunk_tokens=16, shrink=4)
    strategy.body_ids(new_context(llama), 8)
    # The four summaries' 12 tokens are one chunk, whose summary may fill the room.
    assert [asked[2] for asked in strategy.asked] == [4, 4, 4, 4, 8]


def test_a_chunk_leaves_a_third_of_the_context_to_its_summary(llama):
    """512 positions, 2 of them the opening and 3 the prompt: 338 for the chunk, and 169 for at most its summary."""
    strategy = Scripted(3, map_prompt="w1")
    strategy.body_ids(new_context(llama, 500, corpus=CORPUS * 20), 498)
    assert [len(asked[0]) - 2 for asked in strategy.asked] == [338, 338, 338, 186]
    assert {asked[2] for asked in strategy.asked} == {124}
    strategy = Scripted(3, map_prompt="w1")
    strategy.body_ids(new_context(llama, 500), 498)
    assert [asked[2] for asked in strategy.asked] == [169]


@torch.no_grad()
def greedy(model, start, max_new_tokens):
    """The plain model's most likely token, again and again."""
    row = list(start)
    for _ in range(max_new_tokens):
        row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
        if row[-1] == END:
            break
    return row[len(start) :]


def test_a_reply_is_the_plain_models_greedy_one(model):
    context = new_context(model)
    asked = prompt_ids("w1 w2")
    reply = Summary()._reply(context, OPENING + CORPUS, asked, 6)
    expected = greedy(model, OPENING + CORPUS + asked, 6)
    assert reply == tokenizer().decode(expected, skip_special_tokens=True)


def test_the_tensors_are_the_prefill_of_what_the_model_wrote(llama):
    """The prompts' words are all unknown to this tokenizer, which does not stop it."""
    context, strategy = new_context(llama), Summary(chunk_tokens=32)
    unknown = tokenizer().unk_token_id
    asked = context.renderer.prompt_ids([type("User", (), {"role": "user", "content": strategy.map_prompt})])
    assert set(asked[1:-1]) == {unknown}
    written = [
        token
        for start in (0, 32)
        for token in greedy(llama, OPENING + CORPUS[start : start + 32] + asked, 5)
        if token >= FIRST_WORD or token == unknown
    ]
    expected = OPENING + (written + CORPUS)[:10]
    close(all_tensors(strategy.tensors(context)), naive_prefill(llama, expected))


def test_bad_settings_are_named(llama):
    with pytest.raises(ValueError, match="chunk_tokens=0 must be at least 1"):
        Summary(chunk_tokens=0)
    with pytest.raises(ValueError, match="shrink=1 must be at least 2"):
        Summary(shrink=1)
    with pytest.raises(
        ValueError, match=r"the prompt of 602 tokens .* leave -92 of max_position_embeddings=512"
    ):
        Summary(map_prompt="w1 " * 600).tensors(new_context(llama))
