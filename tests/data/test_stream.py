"""The stream is decided by (seed, index): split, resumed and threaded, it neither repeats nor skips (law 4)."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from threading import Event, Timer

import numpy as np
import pytest

from lit_cartridges.data.batch import Example
from lit_cartridges.data.stream import ExampleStream, RoundNews, StreamState


class Numbered:
    """Group g holds examples labelled "g/i", of lengths and answers that g and i decide."""

    def __init__(self, *, per_group=3, empty=(), answer_from=1, longest=12):
        self.per_group, self.empty, self.answer_from, self.longest = per_group, empty, answer_from, longest
        self.counts = {"conversations": 0.0}

    def examples(self, group):
        if self.empty == "all" or group in self.empty:
            return []
        self.counts["conversations"] += self.per_group
        return [self.example(group, i) for i in range(self.per_group)]

    def example(self, group, i):
        tokens = 3 + (group * 7 + i * 5) % (self.longest - 2)
        rows = np.arange(self.answer_from, tokens)
        return Example(
            token_ids=np.full(tokens, group),
            target_rows=rows,
            target_ids=rows,
            top_ids=np.empty((len(rows), 0), dtype=np.int64),
            top_logprobs=np.empty((len(rows), 0), dtype=np.float32),
            label=f"{group}/{i}",
        )


def stream(source=None, **options):
    return ExampleStream(
        source or Numbered(), **({"tokens_per_batch": 20, "groups_per_round": 2, "seed": 1} | options)
    )


def take(batches, count):
    return list(islice(batches, count))


def labels(batches):
    return [batch.labels for batch in batches]


def test_the_same_seed_gives_the_same_batches_and_another_seed_another_order():
    assert labels(take(stream(), 30)) == labels(take(stream(), 30))
    other = take(stream(seed=2), 30)
    assert labels(other) != labels(take(stream(), 30))


class Written(Numbered):
    """With a teacher, who counts as a synthesizer does, and finds odd groups recorded."""

    writes = True

    def examples(self, group):
        self.counts["synthesis/made"] = self.counts.get("synthesis/made", 0) + self.per_group * (
            group % 2 == 0
        )
        return super().examples(group)


@pytest.mark.parametrize("threaded", [False, True])
def test_it_tells_how_a_round_goes(threaded):
    told: list[RoundNews] = []
    batches = stream(
        Written(per_group=40),
        groups_per_round=4,
        uses=2,
        threaded=threaded,
        on_group=told.append,
        num_shards=3,
    )
    first = take(iter(batches), 5)
    batches.close()
    assert labels(first) == labels(
        take(stream(Numbered(per_group=40), groups_per_round=4, uses=2, num_shards=3), 5)
    )
    round_ = told[:5]
    assert [news.groups for news in round_] == [0, 1, 2, 3, 4] and {news.of for news in round_} == {4}
    assert [news.made for news in round_] == [0, 40, 40, 80, 80]  # of groups 0, 3, 6 and 9
    assert all(news.writes for news in round_) and round_[0].batches == 0
    assert [news.seconds for news in round_] == sorted(news.seconds for news in round_)
    whole = sum(
        len(batch.lengths) for batch in take(stream(Numbered(per_group=40), groups_per_round=4), 1000)
    )
    a_batch = whole / 1000
    assert round_[-1].batches == pytest.approx(2 * 4 * 40 / a_batch, rel=0.1)


class Slow(Numbered):
    """Says when it is at a group of the second round, and waits there."""

    def __init__(self):
        super().__init__()
        self.at_second, self.go_on, self.made = Event(), Event(), []

    def examples(self, group):
        if group >= 8:
            self.at_second.set()
            self.go_on.wait(30)
        self.made.append(group)
        return super().examples(group)


def test_its_end_waits_for_a_group_and_not_for_a_round():
    source = Slow()
    batches = stream(source, groups_per_round=8, threaded=True)
    take(iter(batches), 1)
    assert source.at_second.wait(30)
    Timer(0.5, source.go_on.set).start()
    batches.close()
    assert source.made == list(range(9))
    source.go_on.clear()
    Timer(0.5, source.go_on.set).start()
    again = stream(source, groups_per_round=8, threaded=True)
    assert labels(take(iter(again), 30)) == labels(take(stream(groups_per_round=8), 30)), (
        "another begins anew"
    )
    again.close()


@pytest.mark.parametrize("uses", [1, 3])
def test_every_example_of_a_round_is_used_before_the_next_begins(uses):
    seen = [label for batch in take(stream(uses=uses), 60) for label in batch.labels]
    size = 2 * 3 * uses
    for round_ in range(len(seen) // size):
        counts = Counter(seen[round_ * size : (round_ + 1) * size])
        assert counts == {f"{g}/{i}": uses for g in (2 * round_, 2 * round_ + 1) for i in range(3)}
    if uses > 1:
        assert seen[:6] != seen[6:12]
        assert sorted(seen[:6]) == sorted(seen[6:12])


def test_a_batch_is_as_full_as_the_next_example_allows():
    batches = take(stream(), 40)
    lengths = [n for batch in batches for n in batch.lengths]
    assert all(sum(batch.lengths) <= 20 for batch in batches)
    for batch, following in zip(batches, batches[1:], strict=False):
        assert sum(batch.lengths) + following.lengths[0] > 20
    assert len(lengths) > len(batches)


@pytest.mark.parametrize("num_shards", [2, 3])
def test_shards_do_not_overlap_and_together_are_the_whole(num_shards):
    """The union over two rounds of each shard holds the groups of as many rounds of the single stream, each once."""
    groups = 2 * 2 * num_shards
    wanted = {f"{g}/{i}" for g in range(groups) for i in range(3)}
    parts = []
    for shard in range(num_shards):
        own = [label for b in take(stream(num_shards=num_shards, shards=(shard,)), 40) for label in b.labels][
            :12
        ]
        assert {int(label.split("/")[0]) % num_shards for label in own} == {shard}
        parts.append(own)
    union = [label for part in parts for label in part]
    assert len(union) == len(set(union))
    assert set(union) == wanted
    single = [label for b in take(stream(), 60) for label in b.labels][: len(wanted)]
    assert set(single) == wanted


def test_one_process_serves_the_shards_of_two_as_they_would():
    apart = [iter(stream(num_shards=2, shards=(shard,))) for shard in (0, 1)]
    together = iter(stream(num_shards=2, shards=(0, 1)))
    for _ in range(15):
        for own in apart:
            assert next(together).labels == next(own).labels


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"uses": 2}, {"num_shards": 2, "shards": (0, 1)}, {"batches_per_step": 3}], ids=str
)
def test_a_stream_goes_on_exactly_after_any_step(options, threaded):
    whole = take(stream(**options), 30)
    for stop in range(15):
        state = whole[stop].stream_state
        if state is None:
            continue
        state = StreamState.from_state_dict(state.state_dict())
        rest = stream(start=state, threaded=threaded, **options)
        batches = iter(rest)
        assert labels(take(batches, 12)) == labels(whole[stop + 1 : stop + 13])
        batches.close()


@pytest.mark.parametrize("threaded", [False, True])
def test_to_iterate_again_goes_on_from_the_batch_used_last(threaded):
    """Where that is the batch given last, nothing is made twice; one that was given but not used comes again."""
    used = [StreamState({})]
    whole = labels(take(stream(), 20))
    made = Numbered()
    cut = stream(made, start=lambda: used[0], threaded=threaded)
    assert labels(first := take(iter(cut), 5)) == whole[:5]
    used[0] = first[-1].stream_state
    assert labels(second := take(iter(cut), 7)) == whole[5:12]
    once = made.counts["conversations"]
    used[0] = second[-3].stream_state
    third = take(iter(cut), 10)
    assert labels(third) == whole[10:20]
    assert made.counts["conversations"] > once
    cut.close()
    with pytest.raises(StopIteration):
        next(cut._running)


def test_the_first_iterator_may_leave_batches_out():
    left_out = stream(skip=lambda: 3)
    whole = labels(take(stream(), 8))
    assert labels(take(iter(left_out), 5)) == whole[3:]
    assert labels(take(iter(left_out), 5)) == whole[:5]


def test_state_dicts_hold_plain_numbers_and_round_trip():
    state = take(stream(num_shards=2, shards=(0, 1)), 7)[-1].stream_state
    plain = state.state_dict()
    assert set(plain) == {"places", "turn"}
    assert all(isinstance(number, int) for place in plain["places"] for number in place)
    assert StreamState.from_state_dict(plain) == state


def test_a_batch_within_an_optimizer_step_has_no_state_and_knows_the_steps_answers():
    batches = take(stream(batches_per_step=3), 12)
    assert [batch.stream_state is not None for batch in batches] == [False, False, True] * 4
    for step in range(4):
        window = batches[3 * step : 3 * step + 3]
        assert {batch.window_answers for batch in window} == {sum(len(batch.target_rows) for batch in window)}


def test_threaded_gives_the_same_batches():
    batches = iter(stream(threaded=True, uses=2))
    assert labels(take(batches, 30)) == labels(take(stream(uses=2), 30))
    batches.close()


def test_cut_conversations_are_counted_with_their_lost_answer_tokens():
    (batch, *_) = batches = take(stream(Numbered(longest=30), tokens_per_batch=10), 12)
    whole = [Numbered(longest=30).example(g, i) for g in range(40) for i in range(3)]
    assert all(sum(b.lengths) <= 10 for b in batches)
    counts = batch.counts
    made = [e for e in whole if int(e.label.split("/")[0]) < 2]
    cut = [e for e in made if len(e.token_ids) > 10]
    assert cut
    assert counts["cut_conversations"] == len(cut)
    assert counts["cut_answer_tokens"] == sum(len(e.token_ids) - 10 for e in cut)
    assert counts["conversations"] == len(made)


def test_a_group_without_conversations_is_passed_over():
    seen = {label for batch in take(stream(Numbered(empty=(0, 1, 2, 5))), 20) for label in batch.labels}
    assert not {label for label in seen if label.split("/")[0] in {"0", "1", "2", "5"}}
    assert "3/0" in seen


@pytest.mark.parametrize("threaded", [False, True])
def test_a_source_that_gives_nothing_is_an_error(threaded):
    with pytest.raises(ValueError, match="8 rounds running gave no example.*what the teacher returned"):
        next(iter(stream(Numbered(empty="all"), threaded=threaded)))


def test_a_budget_that_cuts_every_answer_is_an_error_and_no_endless_search():
    with pytest.raises(ValueError, match="tokens_per_batch=4 tokens; raise that"):
        next(iter(stream(Numbered(answer_from=5), tokens_per_batch=4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups_per_round": 0}, "groups_per_round=0 must be at least 1"),
        ({"uses": 0}, "uses=0 must be at least 1"),
        ({"num_shards": 0}, "num_shards=0 must be at least 1"),
        ({"tokens_per_batch": 1}, "tokens_per_batch=1 must be at least 2"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        stream(**options)
