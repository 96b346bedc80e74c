"""Conversations off the corpus are a fraction of the stream's supervised tokens, and decided by (seed, index) (law 4)."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lit_cartridges.conversations.requests import read_requests
from lit_cartridges.data.off_corpus import MixPlace, OffCorpusMix
from lit_cartridges.data.sources import RawCorpus
from lit_cartridges.data.stream import StreamState
from lit_cartridges.losses import FullDistillation, NextToken
from lit_cartridges.self_study.general_prompts import GENERAL_PROMPTS
from lit_cartridges.self_study.seed_prompts import resolve_seed_prompts
from tests.data.test_stream import Numbered, labels, stream
from tests.tiny_models import tiny_model
from tests.tiny_run import SaveAt, fit, from_recording, new_data, new_module, one_batch, same_tensors

REQUESTS = ["w5 w6", "w7", "w8 w9 w10", "w11"]


@pytest.fixture
def chats(tmp_path) -> str:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"prompt": request}) + "\n" for request in REQUESTS))
    return str(path)


class General(Numbered):
    """Examples that are known by the letter in front of their label."""

    def example(self, group, i):
        made = super().example(group, i)
        object.__setattr__(made, "label", f"off {made.label}")
        return made


def mixed(fraction, **options):
    mix = OffCorpusMix(source=General(per_group=5, empty=(1, 2, 6)), fraction=fraction)
    return stream(off_corpus=mix, **options)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.3, 0.8])
def test_the_fraction_holds_to_within_one_conversation_after_every_round(fraction):
    mix = OffCorpusMix(source=General(per_group=5, empty=(1, 2, 6)), fraction=fraction)
    place, every, off = MixPlace(), 0, 0
    for group in range(60):
        about = Numbered(per_group=1 + group % 4).examples(group)
        beside, place = mix.beside(about, place, shard=0, num_shards=1, fitted=lambda example: example)
        off += sum(len(example.target_ids) for example in beside)
        every += sum(len(example.target_ids) for example in about + beside)
        longest = max((len(example.target_ids) for example in beside), default=11)
        assert 0 <= off - fraction * every < longest
    assert off


def test_they_are_shuffled_among_the_others():
    batches = list(islice(mixed(0.5, groups_per_round=8), 12))
    runs = [label.startswith("off") for batch in batches for label in batch.labels]
    assert sum(a != b for a, b in zip(runs, runs[1:], strict=False)) > len(runs) / 4


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_stream_that_goes_on_neither_repeats_nor_skips(threaded, shards):
    options = {"num_shards": shards, "shards": tuple(range(shards)), "threaded": threaded, "uses": 2}
    whole = list(islice(mixed(0.2, **options), 90))
    for stop in (1, 17, 44, 71):
        state = StreamState.from_state_dict(json.loads(json.dumps(whole[stop - 1].stream_state.state_dict())))
        rest = list(islice(mixed(0.2, start=state, **options), 90 - stop))
        assert labels(rest) == labels(whole[stop:])
        assert rest[-1].stream_state == whole[-1].stream_state
    seen = [label for batch in whole for label in batch.labels if label.startswith("off")]
    assert len(set(seen)) > 8 and max(map(seen.count, seen)) <= 2


def test_a_set_that_gives_nothing_ends_the_run_by_name():
    nothing = OffCorpusMix(source=Numbered(empty="all"), fraction=0.1)
    with pytest.raises(ValueError, match="off_corpus: 8 groups running gave no conversation"):
        list(islice(stream(off_corpus=nothing), 5))


def test_at_a_fraction_of_0_the_stream_is_the_one_without(tmp_path, model_folder, corpus, chats):
    plain, none = (
        fit(tmp_path / name, new_module(model_folder), new_data(corpus, **options))
        for name, options in (("a", {}), ("b", {"off_corpus": chats, "off_corpus_fraction": 0.0}))
    )
    for one, other in zip(plain[1].batches, none[1].batches, strict=True):
        assert torch.equal(one.input_ids, other.input_ids) and one.stream_state == other.stream_state
        assert torch.equal(one.targets.top_logprobs, other.targets.top_logprobs)
    assert plain[1].losses == none[1].losses and not (tmp_path / "b" / "recording_off_corpus").exists()


@pytest.mark.parametrize("recorded_source", [False, True])
def test_its_log_probabilities_are_the_plain_models(
    tmp_path, model_folder, corpus, recorded, chats, recorded_source
):
    options = {"off_corpus": chats, "off_corpus_fraction": 0.7, "tokens_per_batch": 200}
    data = (
        from_recording(corpus, recorded, **options)
        if recorded_source
        else new_data(corpus, min_mass=1.0, **options)
    )
    batch = one_batch(tmp_path, new_module(model_folder), data)
    pieces = batch.input_ids[0].split(batch.lengths)
    off = [row for row, label in enumerate(batch.labels) if label == "off_corpus"]
    assert off
    plain, bos = tiny_model("llama"), torch.tensor([data.student.tokenizer.bos_token_id])
    for row in off:
        mine = batch.label_rows == row
        rows = batch.target_rows[mine] - sum(batch.lengths[:row])
        ids = torch.cat([bos, pieces[row]])  # the plain chat, from its very beginning
        logprobs = plain(ids[None]).logits[0].log_softmax(-1)[rows + 1]
        top, known = batch.targets.top_ids[mine], batch.targets.top_logprobs[mine]
        seen = known > -torch.inf
        torch.testing.assert_close(known[seen], logprobs.gather(1, top)[seen], atol=2e-5, rtol=0)
        assert torch.equal(logprobs.argmax(1), batch.targets.token_ids[mine])  # greedy answers
    assert (tmp_path / "recording_off_corpus").is_dir()


def test_a_run_that_goes_on_is_the_run_that_never_stopped(tmp_path, model_folder, corpus, chats):
    def parts(folder):
        data = new_data(corpus, off_corpus=chats, off_corpus_fraction=0.3)
        return tmp_path / folder, new_module(model_folder), data

    place, module, data = parts("whole")
    saved = tmp_path / "at_3.ckpt"
    whole = fit(place, module, data, SaveAt(3, saved), max_steps=6)[1]
    assert any("off_corpus" in batch.labels for batch in whole.batches[3:])
    place, again, data = parts("again")
    rest = fit(place, again, data, ckpt_path=saved, max_steps=6)[1]
    assert labels(rest.batches) == labels(whole.batches[3:]) and rest.losses == whole.losses[3:]
    assert same_tensors(dict(module.cartridge.state_dict()), dict(again.cartridge.state_dict()))
    place, other, data = parts("other")
    data = new_data(corpus, off_corpus=chats, off_corpus_fraction=0.2)
    with pytest.raises(ValueError, match="data.off_corpus_fraction=0.3, and this run has 0.2"):
        fit(place, other, data, ckpt_path=saved, max_steps=6)


@pytest.mark.parametrize("objective", [NextToken(), FullDistillation()])
def test_other_objectives_and_sources_train_on_it_too(tmp_path, model_folder, corpus, chats, objective):
    options = {"source": RawCorpus(window_tokens=12)} if isinstance(objective, NextToken) else {}
    data = new_data(corpus, off_corpus=chats, off_corpus_fraction=0.5, **options)
    seen = fit(tmp_path, new_module(model_folder, objective=objective), data)[1]
    assert any("off_corpus" in batch.labels for batch in seen.batches) and np.isfinite(seen.losses).all()


def test_seed_prompts_make_a_set_of_their_own(tmp_path, model_folder, corpus):
    options = {"off_corpus": "tests.tiny_run.SEED_PROMPTS", "off_corpus_fraction": 0.6}
    one, other = (
        one_batch(tmp_path / n, new_module(model_folder), new_data(corpus, **options)) for n in "ab"
    )
    assert torch.equal(one.input_ids, other.input_ids) and "off_corpus" in one.labels
    assert resolve_seed_prompts("general") == GENERAL_PROMPTS
    wordings = [wording for kind in GENERAL_PROMPTS.values() for wording in kind]
    assert len(set(wordings)) == len(wordings) > 200


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "w1"}]}\n{"messages": []}\n'),
        ("b.json", '[{"conversations": [{"from": "human", "value": "w1"}, {"from": "gpt", "value": "x"}]}, "text"]'),
        ("c.jsonl", '\n{"question": "w1", "answer": "w2"}\n{"prompt": "w1"}\n'),
    ],
)  # fmt: skip
def test_chat_data_sets_of_several_layouts(tmp_path, name, content, recorded):
    (tmp_path / name).write_text(content)
    assert read_requests(tmp_path / name) == ["w1"]
    turns = [[{"role": "user", "content": "w1"}], [{"role": "assistant", "content": "w2"}]]
    pq.write_table(pa.table({"id": [1, 2], "messages": turns}), tmp_path / "d.parquet")
    assert read_requests(tmp_path / "d.parquet") == ["w1"]
    assert len(read_requests(recorded)) == 16  # a recording of ours


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"off_corpus_fraction": 0.1}, "off_corpus_fraction=0.1 needs off_corpus"),
        ({"off_corpus": "general", "off_corpus_fraction": 1.0}, "off_corpus_fraction=1.0 must be below 1"),
        ({"off_corpus": "general", "off_corpus_fraction": -0.1}, "off_corpus_fraction=-0.1 must be at least 0"),
        ({"off_corpus": "unheard"}, "off_corpus='unheard' is no chat data set .*seed_prompts='unheard' is not registered"),
        ({"off_corpus": "none.jsonl"}, "off_corpus='none.jsonl' cannot be read as a chat data set"),
        ({"off_corpus": "text.txt"}, "off_corpus='text.txt' must be a chat data set"),
        ({"off_corpus": "silent.jsonl"}, "off_corpus='silent.jsonl': no row has a message of the user"),
        ({"off_corpus": "bad.jsonl"}, "off_corpus='bad.jsonl' cannot be read .* line 1 is no JSON"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_once(tmp_path, corpus, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("w1")
    (tmp_path / "silent.jsonl").write_text('{"messages": [{"role": "assistant", "content": "w1"}]}\n')
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(ValueError, match=message):
        new_data(corpus, **options)


def test_a_model_without_room_for_a_request_is_refused(corpus, model_folder, chats):
    data = new_data(corpus, off_corpus=chats, answer_max_tokens=300)
    with pytest.raises(ValueError, match="off_corpus=.*no room for a request: the model has 512 positions"):
        new_module(model_folder, num_tokens=212).connect(data)
