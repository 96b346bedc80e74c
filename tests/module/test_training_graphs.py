"""Training steps as CUDA graphs, played by the CPU: a replay does the recorded operators again, without any of their Python.

So a length, a weight or a place that was a number when the step was recorded gives wrong gradients for the next batch.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lit_cartridges.attention import kernels, reads_prefixes
from lit_cartridges.data.bucketed import Bucket
from lit_cartridges.errors import SettingError
from lit_cartridges.losses import FullDistillation, NextToken, Objective, TopKDistillation
from lit_cartridges.models import step_graphs
from lit_cartridges.module import training_graphs
from lit_cartridges.module.training_graphs import TrainingGraphs
from tests.attention.cuda_flash import CudaFlash
from tests.data.test_bucketed import OBJECTIVES, drawn_batch, drawn_module, plain_results
from tests.dispatched import Dispatched
from tests.recorded_graph import RecordedGraph, recorded
from tests.tiny_models import tiny_model
from tests.tiny_run import fit, from_recording, new_module, new_trainer

WAITS = {"gemma2": "flash attention does not take its layers"}
"""Architectures whose steps are no graphs, and why."""
# Of one bucket, and none like another.
ROWS = [(7, 1, 12), (5, 16, 3), (9, 9, 9), (15, 2, 4)]


@pytest.fixture
def flash(monkeypatch):
    """The CPU in the part of a CUDA device, in fp32, which rounds no further."""
    takes, half = kernels.flash_takes, torch.float16
    monkeypatch.setattr(kernels, "has_flash", lambda device: True)
    monkeypatch.setattr(kernels, "flash_takes", lambda *tensors: takes(*(x.to(half) for x in tensors)))
    with CudaFlash(wide=True) as mode:
        yield mode


@pytest.fixture
def graphs(monkeypatch, flash):
    """Steps are recorded and replayed; the graphs that were made."""
    made: list[RecordedGraph] = []
    monkeypatch.setattr(step_graphs, "captures", lambda device: True)
    monkeypatch.setattr(
        step_graphs, "captured", lambda step, beside: made.append(recorded(step, beside)) or made[-1]
    )
    return made


def gradients(module):
    return [x.grad.clone() for x in module.cartridge.parameters()]


def plain_of(module, batch, weight):
    results = plain_results(module, batch, weight)
    return *results[:3], results[3:]


def require_the_steps_of_plain_ones(module, steps, batches, weights):
    """Losses of every micro-batch, and the gradients that two of them at a time add up to."""
    parameters = list(module.cartridge.parameters())
    for first in range(0, len(batches), 2):
        module.cartridge.zero_grad()
        expected = [torch.zeros_like(x) for x in parameters]
        for batch, weight in zip(batches[first : first + 2], weights[first : first + 2], strict=True):
            loss, token_losses, nll = steps.losses(batch, weight)
            (loss / 3).backward()
            *plain, plain_gradients = plain_of(module, batch, weight)
            for mine, theirs in zip((loss, token_losses, nll), plain, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
            expected = [x + y / 3 for x, y in zip(expected, plain_gradients, strict=True)]
        for mine, theirs in zip(gradients(module), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("biases", [False, True], ids=["", "biased"])
def test_replays_of_one_bucket_give_each_batch_its_own(model, graphs, biases):
    """Of every architecture; behind windows that hide some of the prefix, with sinks and experts."""
    module = drawn_module(model, biases=biases)
    batches = [drawn_batch(lengths, seed=i) for i, lengths in enumerate(ROWS)]
    assert len({Bucket.of(x) for x in batches}) == 1
    with reads_prefixes(model):
        steps = TrainingGraphs(module)
        if (why := WAITS.get(model.config.model_type)) is not None:
            with pytest.warns(UserWarning, match=f"training steps are no CUDA graphs, since {why}"):
                assert steps.losses(batches[0], 1.0) is None
            assert steps.losses(batches[0], 1.0) is None and not graphs
            return
        require_the_steps_of_plain_ones(module, steps, batches, [0.3, 0.2, 0.7, 0.05])
    assert steps.graphs.refused is None and (len(graphs), steps.graphs.replays) == (1, 3)


@pytest.mark.parametrize("biases", [False, True], ids=["", "biased"])
@pytest.mark.parametrize(
    "rows",
    [[(9,) * 6] * 2 + [(16, 16, 6, 6, 5, 5), (5, 9, 4, 14, 13, 9)], [(9, 9, 9), *ROWS[:3]]],
    ids=["later", "in all"],
)
def test_a_window_that_hides_some_of_the_prefix(graphs, rows, biases):
    """In later rows of the bucket alone, or in all of them, padding among them."""
    module = drawn_module(tiny_model("mistral"), biases=biases, prefix=10)
    batches = [drawn_batch(lengths, seed=i) for i, lengths in enumerate(rows)]
    window = module.student.config.sliding_window
    assert 10 + 9 <= window < 10 + 16
    with reads_prefixes(module.student):
        steps = TrainingGraphs(module)
        require_the_steps_of_plain_ones(module, steps, batches, [0.5] * 4)
    assert (len(graphs), steps.graphs.replays) == (1, 3)


@pytest.mark.parametrize("recomputed", [False, True], ids=["", "recomputed"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda x: type(x).__name__)
def test_every_objective(graphs, objective, recomputed):
    """A teacher's hidden states are made before the graph, and read by it."""
    module = drawn_module(tiny_model("mistral"), objective)
    module.gradient_checkpointing = recomputed
    batches = [drawn_batch(lengths, seed=i) for i, lengths in enumerate(ROWS)]
    with reads_prefixes(module.student):
        steps = TrainingGraphs(module)
        if objective.needs_teacher_hidden:
            known = [training_graphs.teacher_hidden(module.student, x) for x in batches]
            plain = [
                replace(x, targets=replace(x.targets, teacher_hidden=y))
                for x, y in zip(batches, known, strict=True)
            ]
        else:
            plain = batches
        for batch, same in zip(batches, plain, strict=True):
            module.cartridge.zero_grad()
            loss, *_ = steps.losses(batch, 0.5)
            loss.backward()
            expected, _, _, theirs = plain_of(module, same, 0.5)
            torch.testing.assert_close(loss, expected)
            torch.testing.assert_close(gradients(module), list(theirs), rtol=1e-4, atol=1e-6)
    assert (len(graphs), steps.graphs.replays) == (1, 3)


def test_a_graph_is_replayed_for_its_own_bucket_alone(graphs, monkeypatch):
    """Of rows that differ in one measure each: tokens, sequences, the longest, answers, recorded log-probabilities."""
    module = drawn_module(tiny_model("mistral"))
    batches = [drawn_batch(x, seed=i) for i, x in enumerate([(7, 1, 12), (70,), (5,) * 9, (60,), (20,) * 3])]
    batches += [
        drawn_batch((7, 1, 12), top_k=9),
        replace(batches[0], targets=drawn_batch((7, 1, 12)).targets),
    ]
    buckets = [Bucket.of(x) for x in batches]
    assert len(set(buckets)) == len(buckets) - 1
    with reads_prefixes(module.student):
        steps = TrainingGraphs(module)
        for _ in range(3):
            require_the_steps_of_plain_ones(module, steps, batches, [0.1 * (i + 1) for i in range(7)])
        assert len(graphs) == 6 and steps.graphs.replays == 3 * 7 - 6
        # Fewer graphs than buckets: each makes room for the next, and comes back anew.
        monkeypatch.setattr(training_graphs, "MOST", 1)
        fewer = TrainingGraphs(module)
        for _ in range(2):
            require_the_steps_of_plain_ones(module, fewer, [batches[0], *batches[:3]], [0.1, 0.2, 0.3, 0.4])
    assert len(fewer._slots) == 1 and len(fewer.graphs._graphs) == 1
    assert fewer.graphs.replays == 2, "of the first row, which comes twice in a row"


class Halved(Objective):
    """An objective that somebody changes while it is in use."""

    def __init__(self) -> None:
        self.factor = 1.0

    def token_losses(self, log_probs, targets, teacher_head):
        return self.factor * NextToken().token_losses(log_probs, targets, teacher_head)


def test_what_lies_elsewhere_or_has_changed_is_captured_anew(graphs):
    module, batch = drawn_module(tiny_model("llama"), Halved()), drawn_batch((7, 1, 12))
    parameter = module.cartridge.trainable_keys[0]
    with reads_prefixes(module.student):
        steps = TrainingGraphs(module)
        for change in (
            lambda: None,
            lambda: setattr(parameter, "data", parameter.data + 1),
            lambda: setattr(module.objective, "factor", 0.5),
            lambda: setattr(module, "cartridge", drawn_module(module.student).cartridge),
        ):
            change()
            require_the_steps_of_plain_ones(module, steps, [batch] * 4, [0.5] * 4)
            with torch.no_grad():  # as an optimizer does it: this is no change of place
                module.cartridge.trainable_values[1].mul_(0.5)
            require_the_steps_of_plain_ones(module, steps, [batch] * 2, [0.5] * 2)
    assert len(graphs) == 4 and steps.graphs.replays == 4 * 5


class Asks(TopKDistillation):
    """An objective that looks at a number of the device."""

    def token_losses(self, log_probs, targets, teacher_head):
        return super().token_losses(log_probs, targets, teacher_head) * float(log_probs[0, 0] < 0)


def test_steps_that_wait_for_the_device_are_named_and_made_plainly(graphs):
    module, batch = drawn_module(tiny_model("llama"), Asks()), drawn_batch((7, 1, 12))
    with reads_prefixes(module.student):
        steps = TrainingGraphs(module)
        with pytest.warns(
            UserWarning, match="LlamaForCausalLM: training steps are no CUDA graphs, since it waits"
        ):
            assert steps.losses(batch, 1.0) is None
        assert steps.losses(batch, 1.0) is None and not graphs and not steps._slots


def test_hooks_of_the_gradients_are_called(graphs):
    """By the plain step, since a graph knows none."""
    module, batch = drawn_module(tiny_model("llama")), drawn_batch((7, 1, 12))
    module.cartridge.trainable_values[0].register_hook(torch.zeros_like)
    with reads_prefixes(module.student):
        steps = TrainingGraphs(module)
        with pytest.warns(UserWarning, match="hooks wait for the gradients"):
            assert steps.losses(batch, 1.0) is None


def test_a_capture_that_fails_is_named_and_the_run_goes_on(
    graphs, monkeypatch, tmp_path, model_folder, corpus, recorded_conversations
):
    def fails(step, beside):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(step_graphs, "captured", fails)
    with pytest.warns(
        UserWarning, match="not permitted when stream is capturing; losses and gradients are the same"
    ):
        _, curve = run(tmp_path, model_folder, corpus, recorded_conversations, cuda_graphs=True)
    _, plain = run(tmp_path, model_folder, corpus, recorded_conversations)
    assert curve.losses == pytest.approx(plain.losses, rel=1e-5)


@pytest.fixture
def recorded_conversations(request):
    """The fixture of that name in the whole house, which `recorded` of these tests hides."""
    return request.getfixturevalue("recorded")


def run(tmp_path, model_folder, corpus, recording, *, objective=None, trainer=None, **options):
    module = new_module(model_folder, objective=objective, **options)
    _, curve = fit(
        tmp_path, module, from_recording(corpus, recording), **({"max_steps": 6} | (trainer or {}))
    )
    return module, curve


@pytest.mark.parametrize(
    ("options", "trainer"),
    [
        ({}, {}),
        ({"gradient_checkpointing": True}, {"accumulate_grad_batches": 3}),
        ({"objective": FullDistillation()}, {"gradient_clip_val": 0.5}),
    ],
    ids=["plain", "accumulated and recomputed", "distilled"],
)
def test_a_run_is_the_plain_run(
    graphs, tmp_path, model_folder, corpus, recorded_conversations, options, trainer
):
    """The recording comes again and again, and with it its buckets."""
    runs = []
    for cuda_graphs in (False, True):
        assert not graphs
        module, curve = run(
            *(tmp_path, model_folder, corpus, recorded_conversations),
            trainer=trainer,
            cuda_graphs=cuda_graphs,
            **options,
        )
        runs.append((curve.losses, module.state_dict()))
    assert graphs
    assert runs[1][0] == pytest.approx(runs[0][0], rel=1e-4)
    for name, tensor in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][name], tensor, rtol=1e-3, atol=1e-4)


def test_without_a_device_that_has_them_nothing_changes(
    tmp_path, model_folder, corpus, recorded_conversations
):
    (_, plain), (_, curve) = (
        run(tmp_path, model_folder, corpus, recorded_conversations, cuda_graphs=x) for x in (False, True)
    )
    assert curve.losses == plain.losses


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_launches_of_a_step(graphs, monkeypatch, name):
    """What Python hands to the device once a bucket is known, beside the graph; and nothing is waited for."""
    module, batch = drawn_module(tiny_model(name)), drawn_batch((7, 1, 12))
    with reads_prefixes(module.student):
        steps = TrainingGraphs(module)
        for _ in range(2):
            steps.losses(batch, 0.5)[0].backward()
        with Dispatched() as plain:
            plain_results(module, batch, 0.5)
        monkeypatch.setattr(RecordedGraph, "replay", lambda self: None)
        other = drawn_batch((5, 16, 3))
        with Dispatched() as seen:
            steps.losses(other, 0.25)[0].backward()
    (graph,) = graphs
    held = {func._schema.name.removeprefix("aten::") for func, *_ in graph.calls}
    assert not held & {"lift_fresh", "scalar_tensor"}, "numbers of the host"
    print(f"{name}: {plain.launched} launches, {seen.launched} and a graph", dict(seen.names))
    assert not seen.waits and seen.launched <= 36 < plain.launched


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"compile_layers": True}, "model.compile_layers=True is another way"),
        ({"device_map": "auto"}, "model.device_map='auto' spreads layers"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path, model_folder, corpus, recorded_conversations, settings, told
):
    with pytest.raises(SettingError, match=f"cuda_graphs=True: .*{told}"):
        run(tmp_path, model_folder, corpus, recorded_conversations, cuda_graphs=True, **settings)


def test_strategies_that_take_part_in_the_backward_pass_are_refused(tmp_path, model_folder):
    """Of one process too: what adds gradients up waits for hooks that are not called."""
    trainer = new_trainer(tmp_path, strategy="ddp")
    with pytest.raises(
        SettingError, match="cuda_graphs=True: .* DDPStrategy takes part in the backward pass"
    ):
        training_graphs.require_capturable(new_module(model_folder, cuda_graphs=True), trainer)
