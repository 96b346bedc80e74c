"""lm-evaluation-harness itself on two dozen made-up questions, its figures against our own evaluation's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.systems import no_context, of_cartridge
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.pocket.task import PocketQuestions
from tests.serving.shelves import POCKET, fill, of_text, pocket

harness = pytest.importorskip("lm_eval", reason="needs the extra lm_eval: make install-lm-eval")
pytest.importorskip("datasets", reason="needs the extra lm_eval: make install-lm-eval")
from lit_cartridges.lm_eval.chat import Chat  # noqa: E402
from lit_cartridges.lm_eval.model import CartridgeLM  # noqa: E402

pytestmark = pytest.mark.lm_eval
TASKS = Path(__file__).parent / "tasks"
QUESTIONS = PocketQuestions(seed=1, num_tokens=100, num_questions=24)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("shelf"), right=1, other=2)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with the tasks and their questions, each with four choices."""
    folder = tmp_path_factory.mktemp("tasks")
    os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
    asked = QUESTIONS.questions()
    lines = []
    for at, question in enumerate(asked):
        others = [asked[(at + step) % len(asked)].answer for step in range(1, len(asked))]
        wrong = list(dict.fromkeys(answer for answer in others if answer != question.answer))[:3]
        choices = sorted([question.answer, *wrong])
        lines.append(json.dumps({"question": question.prompt, "answer": question.answer, "choices": choices}))
    (folder / "questions.jsonl").write_text("\n".join(lines))
    for file in TASKS.glob("*.yaml"):
        text = file.read_text().replace("QUESTIONS", str(folder / "questions.jsonl"))
        (folder / file.name).write_text(text)
    return folder


def measured(tasks, name, model, **options):
    """The harness's figures and samples of one task."""
    from lm_eval.tasks import TaskManager

    found = harness.simple_evaluate(
        model=model,
        tasks=[name],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        **options,
    )
    return found["results"][name], sorted(found["samples"][name], key=lambda one: one["doc_id"])


@pytest.fixture(scope="module")
def ours():
    """By name of the system, our own evaluation of the questions."""
    model, tokenizer = pocket()
    both = Cartridge.compose([of_text(1), of_text(2)])
    systems = {
        "right": of_cartridge("right", of_text(1), model),
        "right+other": of_cartridge("right+other", both, model),
        "": no_context(),
    }
    return {
        name: evaluate(model, ChatRenderer(tokenizer), system, QUESTIONS, max_new_tokens=12)
        for name, system in systems.items()
    }


def adapter(shelf, name, **options):
    """The model of the harness behind cartridges of the shelf."""
    paths = {"right": shelf / "right" / "cartridge", "other": shelf / "other"}
    cartridge = "+".join(str(paths[part]) for part in name.split("+")) if name else None
    return CartridgeLM(pretrained=None if name else POCKET, cartridge=cartridge, device="cpu", **options)


@pytest.mark.parametrize("name", ["right", "right+other", ""])
def test_replies_and_log_likelihoods_are_those_of_our_own_evaluation(name, shelf, tasks, ours):
    model, own = adapter(shelf, name, batch_size=7), ours[name]
    figures, samples = measured(tasks, "made_up_reply", model, apply_chat_template=True)
    assert len(samples) == 24
    assert [one["resps"][0][0] for one in samples] == [reply.reply.split("?")[0] for reply in own.replies]
    exact = np.mean([reply.reply == reply.answer for reply in own.replies])
    assert figures["exact_match,none"] == pytest.approx(exact)

    _, samples = measured(tasks, "made_up_choice", model, apply_chat_template=True)
    for one, reply in zip(samples, own.replies, strict=True):
        at = one["doc"]["choices"].index(reply.answer)
        found, _ = one["resps"][at][0]
        tokens = len(model.renderer.answer_ids(reply.answer))
        assert float(found) == pytest.approx(reply.log_likelihood * tokens, abs=2e-4)
    if name == "right":
        assert exact > 0.8 > ours[""].accuracy, "the cartridge knows what the bare model does not"


def test_what_is_likeliest_is_what_is_written(shelf):
    model = adapter(shelf, "right")
    question = Chat.of([{"role": "user", "content": QUESTIONS.questions()[0].prompt}])
    [reply] = model.generate_until([request(question, {"until": [], "max_gen_toks": 12})])
    answers = [reply, reply.replace("the", "a", 1)]
    found = model.loglikelihood([request(question, answer) for answer in answers], disable_tqdm=True)
    assert [likeliest for _, likeliest in found] == [True, False] and found[0][0] > found[1][0]
    begun = Chat.of([*json.loads(question), {"role": "assistant", "content": reply.rsplit(" ", 2)[0]}])
    rest = reply[len(reply.rsplit(" ", 2)[0]) :]
    [(continued, likeliest)] = model.loglikelihood([request(begun, rest)], disable_tqdm=True)
    assert likeliest and continued > found[0][0], "an answer that the task has begun is gone on with"


class request:
    """As the harness hands them over."""

    def __init__(self, *args):
        self.args = args


@pytest.mark.parametrize("batch_size", [1, "5"])
def test_texts_are_scored_as_the_plain_model_scores_them_behind_the_corpus(batch_size, shelf, tasks):
    """A prefilled cartridge is its text: every token's log-probability is the model's own behind that text."""
    model = adapter(shelf, "right", batch_size=batch_size)
    frozen, tokenizer = pocket()
    corpus = tokenizer(QUESTIONS.corpus.text, add_special_tokens=False)["input_ids"]
    context = ChatRenderer(tokenizer).context_ids(corpus)
    _, samples = measured(tasks, "made_up_text", model)
    for one in samples[:6]:
        ids = model.renderer.encoder.following(f"{one['doc']['question']} {one['doc']['answer']}")
        whole = torch.tensor([[*context, model.prefix_token_id, *ids]])
        logprobs = frozen(whole).logits[0, len(context) : -1].log_softmax(-1)
        plain = logprobs.gather(1, torch.tensor(ids)[:, None]).sum().item()
        assert float(one["resps"][0][0]) == pytest.approx(plain, abs=1e-3)


def test_a_text_that_is_longer_than_the_room_is_scored_in_windows(shelf):
    tokens = of_text(1).num_tokens
    model = adapter(shelf, "right", max_length=tokens + 16)
    assert model.max_length == 16
    text = " ".join(question.answer for question in QUESTIONS.questions()[:6])
    ids = model.renderer.encoder.following(text)
    assert len(ids) > 32
    [whole] = model.loglikelihood_rolling([request(text)], disable_tqdm=True)
    parts, before = 0.0, model.prefix_token_id
    for start in range(0, len(ids) - len(ids) % 16, 16):
        part = ids[start : start + 16]
        parts += model._loglikelihood_tokens([(None, [before], part)], disable_tqdm=True)[0][0]
        before = part[-1]
    if left := len(ids) % 16:  # the last one has as much in front of it as there is room
        context = ids[-17 : len(ids) - left]
        parts += model._loglikelihood_tokens([(None, context, ids[-left:])], disable_tqdm=True)[0][0]
    assert whole == pytest.approx(parts, abs=1e-3)


def test_what_would_be_computed_wrongly_is_refused(shelf):
    model = adapter(shelf, "right", max_length=of_text(1).num_tokens + 40)
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a question"}]
    with pytest.raises(SettingError, match="stands in the place of the system message"):
        model.loglikelihood([request(Chat.of(chat), "a")], disable_tqdm=True)
    with pytest.raises(EvalError, match="does not fit the 40 positions behind the cartridge"):
        model.generate_until([request("a", {"until": ["."], "max_gen_toks": 100})], disable_tqdm=True)
    with pytest.raises(SettingError, match="gen_kwargs=.*no_such_thing"):
        model.generate_until([request("a", {"max_gen_toks": 2, "no_such_thing": 1})], disable_tqdm=True)
    with pytest.raises(SettingError, match="batch_size='auto' must be a whole number, 1 or more"):
        adapter(shelf, "right", batch_size="auto")
    with pytest.raises(SettingError, match="give the model, or a cartridge that names one"):
        CartridgeLM()
    with pytest.raises(SettingError, match="leaves 0 positions behind the cartridge"):
        adapter(shelf, "right", max_length=of_text(1).num_tokens)


def test_the_command_of_the_documentation(shelf, tasks, ours, tmp_path):
    """The harness's own command line, in a process of its own."""
    command = [sys.executable, "-m", "lit_cartridges.lm_eval", "--model", "lit_cartridges"]
    command += ["--tasks", "made_up_reply", "--include_path", str(tasks), "--apply_chat_template"]
    command += ["--batch_size", "8", "--device", "cpu", "--output_path", str(tmp_path / "out")]
    env = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    given = ["--model_args", f"pretrained={POCKET},cartridge={shelf / 'right' / 'cartridge'}"]
    done = subprocess.run([*command, *given], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "out").rglob("*.json")
    figure = json.loads(file.read_text())["results"]["made_up_reply"]["exact_match,none"]
    assert figure == pytest.approx(np.mean([reply.reply == reply.answer for reply in ours["right"].replies]))
    assert "|made_up_reply|" in done.stdout
    done = subprocess.run(
        [*command, "--model_args", "cartridge=nowhere/at/all"], capture_output=True, text=True, env=env
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("lm_eval: ")
