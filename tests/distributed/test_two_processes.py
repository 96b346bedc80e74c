"""Two processes train what one trains: DDP and ZeRO 0 to 3 give its curve, its cartridge and its recording.

The reference is one process that takes the same two micro-batches a step. Tolerance: 1e-4 relative in the loss of each
of 20 steps, in fp32; conversations are made on the fly, so their tokens must be the same to begin with.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.conversations.recording import Recording
from tests.callbacks.test_composition_test import save_other
from tests.distributed.processes import results, run_jobs
from tests.tiny_models import ARCHITECTURES
from tests.tiny_run import save_corpus, save_model

pytestmark = pytest.mark.distributed  # `make test-distributed`

STEPS, SAVED = 20, 7
ZERO = ["zero0", "zero1", "zero2", "zero3"]
STRATEGIES = ["ddp", *ZERO]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def settings(folder):
    model = save_model(folder / "model")
    other = save_other(folder / "theirs" / "cartridge", base_model=model)
    return {"model": model, "corpus": save_corpus(folder / "corpus.txt"), "other": other, "steps": STEPS}


@pytest.fixture(scope="module")
def one(folder, settings):
    """The undisturbed run of one process, with a checkpoint between two evaluations."""
    run_jobs(
        folder / "one",
        [{**settings, "name": "run", "strategy": "auto", "save_at": SAVED, "callbacks": True}],
        world_size=1,
    )
    return results(folder / "one", "run", 1)[0]


@pytest.fixture(scope="module")
def two(folder, settings, one):
    """All that two processes do, one after the other in the same two processes, since starting them takes longest."""
    job = {**settings, "save_at": SAVED, "callbacks": True}
    jobs = [{**job, "name": name, "strategy": name} for name in STRATEGIES]
    resume = str(folder / "one" / "run" / "at.ckpt")
    jobs += [{**settings, "name": f"{s}-resumed", "strategy": s, "resume": resume} for s in ("ddp", "zero3")]
    teacher = save_model(folder / "teacher", "qwen2")
    jobs += [
        {**settings, "name": f"{s}-teacher", "strategy": s, "steps": 4, "teacher": teacher, "full": True}
        for s in ("ddp", "zero3")
    ]
    jobs += [
        {**settings, "name": f"{s}-recomputing", "strategy": s, "steps": 4, "accumulate": 2}
        | {"gradient_checkpointing": s == "zero3", "gradient_clip_val": 0.05}
        for s in ("ddp", "zero3")
    ]
    run_jobs(folder / "two", jobs, world_size=2)
    return folder / "two"


def has_deepspeed() -> bool:
    from importlib.util import find_spec

    return find_spec("deepspeed") is not None


def curve(parts) -> np.ndarray:
    """Each process has the loss of its own micro-batch; the step's is their mean."""
    return np.mean([part["losses"] for part in parts], axis=0)


def relative(ours, theirs) -> float:
    """The largest relative difference."""
    return float(np.max(np.abs(ours - theirs) / np.abs(theirs)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_loss_curve(one, two, strategy, figure):
    ours, theirs = curve(results(two, strategy, 2)), curve([one])
    assert len(theirs) == STEPS and np.std(theirs) > 0.01
    figure(f"loss, {strategy}: {relative(ours, theirs):.1e} from one process over {STEPS} steps")
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_curve_of_gradient_norms(one, two, strategy, figure):
    """What clipping sees; Adam alone would hide a gradient of twice the size."""
    ours, theirs = (np.array(part["norms"]) for part in (results(two, strategy, 2)[0], one))
    figure(f"gradient norm, {strategy}: {relative(ours, theirs):.1e} from one process over {STEPS} steps")
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_processes_share_the_batches_of_one(one, two, strategy):
    parts = [part["batches"] for part in results(two, strategy, 2)]
    assert [batch for step in zip(*parts, strict=True) for batch in step] == one["batches"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_recording_is_that_of_one_process(folder, one, two, strategy):
    """Made on the fly by two processes whose replies end at different lengths."""
    ours, theirs = Recording(two / strategy / "recording"), Recording(folder / "one" / "run" / "recording")
    assert ours.groups() == theirs.groups() and len(ours.groups()) > 10
    for group in ours.groups():
        for mine, other in zip(ours.read_group(group), theirs.read_group(group), strict=True):
            assert mine.metadata == other.metadata
            for a, b in zip(mine.messages, other.messages, strict=True):
                np.testing.assert_array_equal(a.token_ids, b.token_ids)
    made = [part["calls"]["made"] for part in results(two, strategy, 2)]
    assert sum(made) == one["calls"]["made"] and min(made) > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_exported_cartridge_is_that_of_one_process(folder, two, strategy):
    ours = Cartridge.from_pretrained(two / strategy / "cartridge")
    theirs = Cartridge.from_pretrained(folder / "one" / "run" / "cartridge")
    assert ours.provenance.steps == STEPS
    for (name, mine), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    assert [p.name for p in sorted((two / strategy / "cartridge").iterdir())] == [
        p.name for p in sorted((folder / "one" / "run" / "cartridge").iterdir())
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_checkpoint_is_the_same_file_without_frozen_weights(folder, two, strategy):
    ours, theirs = (
        torch.load(path / "at.ckpt", weights_only=True) for path in (two / strategy, folder / "one" / "run")
    )
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    assert all(name.startswith("cartridge.") for name in ours["state_dict"])
    (mine,), (other,) = ours["optimizer_states"], theirs["optimizer_states"]
    assert mine["state"].keys() == other["state"].keys()
    for index, moments in mine["state"].items():
        for name, value in other["state"][index].items():
            torch.testing.assert_close(moments[name].float(), value, rtol=1e-3, atol=1e-5)
    assert mine["param_groups"][0]["lr"] == pytest.approx(other["param_groups"][0]["lr"])
    assert ours["SelfStudyDataModule"]["places"] == theirs["SelfStudyDataModule"]["places"]
    assert Path(two / strategy / "at.ckpt").stat().st_size < 64_000


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_evaluations_run_and_agree(one, two, strategy):
    for part in results(two, strategy, 2):
        for name in ("accuracy", "answer_log_likelihood"):
            assert part["evaluation"][name] == pytest.approx(one["evaluation"][name], rel=1e-3)
        assert part["evaluation"]["num_questions"] == 5


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_two_processes_go_on_where_one_stopped(one, two, strategy, figure):
    """After an odd number of steps, so that counts of micro-batches of the two runs do not match by chance."""
    parts = results(two, f"{strategy}-resumed", 2)
    difference = relative(curve(parts), np.array(one["losses"][SAVED:]))
    figure(
        f"resumed at step {SAVED}, 1 process to 2, {strategy}: loss {difference:.1e} from the undisturbed run"
    )
    np.testing.assert_allclose(curve(parts), one["losses"][SAVED:], rtol=1e-4)
    batches = [part["batches"] for part in parts]
    assert [batch for step in zip(*batches, strict=True) for batch in step] == one["batches"][2 * SAVED :]


@pytest.fixture(scope="module")
def from_two(folder, settings, two):
    """One process goes on from checkpoints of two."""
    job = {**settings, "strategy": "auto"}
    jobs = [{**job, "name": s, "resume": str(two / s / "at.ckpt")} for s in ("ddp", "zero2", "zero3")]
    run_jobs(folder / "from-two", jobs, world_size=1)
    return folder / "from-two"


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_one_process_goes_on_where_two_stopped(one, from_two, strategy, figure):
    (rest,) = results(from_two, strategy, 1)
    difference = relative(np.array(rest["losses"]), np.array(one["losses"][SAVED:]))
    figure(
        f"resumed at step {SAVED}, 2 processes to 1, {strategy}: loss {difference:.1e} from the undisturbed run"
    )
    np.testing.assert_allclose(rest["losses"], one["losses"][SAVED:], rtol=1e-4)
    assert sorted(rest["batches"]) == sorted(one["batches"][2 * SAVED :])
    assert rest["step"] == STEPS


@pytest.mark.parametrize("what", ["teacher", "recomputing"])
def test_zero3_is_ddp_with_a_separate_teacher_and_with_recomputed_layers(two, what, figure):
    """The teacher's weights are sharded too; the second run accumulates, clips, and recomputes under ZeRO-3 only."""
    ours, theirs = results(two, f"zero3-{what}", 2), results(two, f"ddp-{what}", 2)
    figure(f"loss, zero3 and ddp, {what}: {relative(curve(ours), curve(theirs)):.1e} apart")
    np.testing.assert_allclose(curve(ours), curve(theirs), rtol=1e-4)
    np.testing.assert_allclose(ours[0]["norms"], theirs[0]["norms"], rtol=1e-3)


def test_a_sharded_model_is_the_whole_model(folder):
    """Logits and the gradients of a prefix, for every architecture; two processes hold half each, but for the head."""
    jobs = [
        {"name": name, "kind": "load", "model": save_model(folder / name, name)}
        for name in sorted(ARCHITECTURES)
    ]
    jobs.append({**jobs[0], "name": "offloaded", "zero": {"offload_param": {"device": "cpu"}}})
    run_jobs(folder / "load", jobs, world_size=2)
    for job in jobs:
        for part in results(folder / "load", job["name"], 2):
            assert part["difference"] < 1e-5 < part["scale"], job["name"]
            assert part["held"] < 0.52 * (part["size"] - part["head"]) + part["head"] + 100, job["name"]
