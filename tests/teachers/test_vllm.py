"""VLLM starts an engine for a run, asks it as any server, and ends it with the run, however that ends.

The engine here is a small program (`engine_program`) with a real model; tests/vllm has vLLM itself.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lit_cartridges.commands.synthesize import synthesize_command
from lit_cartridges.conversations.parquet import read_conversations
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.errors import SettingError
from lit_cartridges.models import load_model
from lit_cartridges.module import LitCartridge
from lit_cartridges.strategies.frozen_models import FrozenModel
from lit_cartridges.teachers import VLLM, LocalTeacher, Sampling, TeacherError
from lit_cartridges.teachers import vllm_engine as engine
from tests.runs.test_child_process import alive, all_gone
from tests.teachers.engine_program import FACTS, FAULT, engine_environment
from tests.tiny_run import END, SaveAt, fit, new_data, new_module, tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return engine_environment(tmp_path_factory.mktemp("vllm"))


@pytest.fixture(autouse=True)
def facts(tmp_path, monkeypatch):
    """Where an engine says how it was started."""
    path = tmp_path / "facts.json"
    monkeypatch.setenv(FACTS, str(path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield lambda: json.loads(path.read_text())
    if path.exists():
        assert all_gone(json.loads(path.read_text())["pids"]), "no test leaves an engine behind"


def named(folder, **options):
    return FrozenModel(**({"setting": "model.model", "name": str(folder), "dtype": "auto"} | options))


def bound(environment, folder, *, model=None, **options):
    teacher = VLLM(python=str(environment), **options)
    teacher.validate(50, 4)
    teacher.expect_model(named(folder), longest_tokens=100)
    teacher.stop_token_ids = (END,)
    teacher.bind(model, tokenizer())
    return teacher


def asked(teacher, rows=4, temperature=0.7):
    completions = teacher.complete(
        context_ids=list(range(7, 20)),
        prompts=[[8 + row, 9] for row in range(rows)],
        sampling=Sampling(temperature, 10),
        seeds=range(rows),
        top_k=4,
    )
    return [c.token_ids.tolist() for c in completions]


def recorded(folder):
    recording = Recording(folder / "recording", tokenizer=tokenizer())
    return {
        group: [[m.token_ids.tolist() for m in c.messages] for c in recording.read_group(group)]
        for group in recording.groups()
    }


def test_a_run_is_that_of_the_local_teacher_and_leaves_nothing_behind(
    environment, model_folder, corpus, tmp_path, facts, capfd
):
    runs = {}
    for teacher in (LocalTeacher(), VLLM(python=str(environment), options=["--enforce-eager"])):
        folder = tmp_path / type(teacher).__name__
        _, curve = fit(folder, new_module(model_folder), new_data(corpus, teacher=teacher))
        runs[type(teacher).__name__] = curve.losses, recorded(folder)
    (mine, local), (theirs, served) = runs.values()
    assert mine == pytest.approx(theirs, abs=1e-4) and len(mine) == 4
    assert all(served[group] == local[group] for group in local) and len(local) >= 2
    told = facts()
    argv = told["argv"]
    said = dict(zip(argv[1::2], argv[2::2], strict=False))
    assert argv[0] == "--enforce-eager" and said["--model"] == model_folder and said["--dtype"] == "float32"
    assert said["--host"] == "127.0.0.1" and said["--gpu-memory-utilization"] == "0.4"
    # A chunk of 40, the template, and the longest question and answer.
    assert 40 + 5 + 8 < int(said["--max-model-len"]) <= 70 and said["--max-logprobs"] == "20"
    assert all_gone(told["pids"], limit_s=0.5), "teardown waits for its end"
    assert not Path(told["folder"]).exists()
    # The key went another way than where people look, and nowhere else.
    key = told["env"]["VLLM_API_KEY"]
    assert len(key) >= 32 and key not in os.environ.values() and "--api-key" not in argv
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "facts.json"]
    assert key not in capfd.readouterr().err and not any(key.encode() in content for content in written)


@pytest.mark.thorough
def test_a_resumed_run_starts_it_again_and_equals_the_unbroken_one(
    environment, model_folder, corpus, tmp_path
):
    """Resumed in another folder, so that nothing of the recording is there."""
    at, runs = tmp_path / "at.ckpt", []
    for folder, callbacks, path in (("whole", [SaveAt(3, at)], None), ("resumed", [], at)):
        module, data = new_module(model_folder), new_data(corpus, teacher=VLLM(python=str(environment)))
        _, curve = fit(tmp_path / folder, module, data, *callbacks, max_steps=6, ckpt_path=path)
        runs.append((curve.losses, module.cartridge))
    (losses, whole), (after, resumed) = runs
    assert len(losses) == 6 and after == pytest.approx(losses[3:], abs=1e-6)
    for mine, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert mine.detach().numpy() == pytest.approx(theirs.detach().numpy(), abs=1e-6)


def test_it_is_asked_with_its_key_refuses_strangers_and_can_be_bound_again(environment, model_folder, facts):
    model = load_model(model_folder, dtype="float32")
    teacher = bound(environment, model_folder, model=model)
    replies = asked(teacher)
    local = LocalTeacher()
    local.stop_token_ids = (END,)
    local.bind(model, tokenizer())
    assert replies == asked(local)
    from httpx import get

    url = f"{teacher._server.url}/v1/models"
    assert get(url).status_code == 401
    first = facts()
    assert get(url, headers={"Authorization": f"Bearer {first['env']['VLLM_API_KEY']}"}).status_code == 200
    copy = pickle.loads(pickle.dumps(teacher))
    with pytest.raises(TeacherError, match="no engine"):
        asked(copy)
    teacher.close()
    assert not any(map(alive, first["pids"])) and teacher.counts == {}
    with pytest.raises(TeacherError, match="no engine"):
        asked(teacher)
    teacher.bind(model, tokenizer())
    assert asked(teacher) == replies and facts()["env"]["VLLM_API_KEY"] != first["env"]["VLLM_API_KEY"]
    teacher.close()


def test_one_that_does_not_start_says_why_and_what_to_change(environment, model_folder, monkeypatch, facts):
    monkeypatch.setenv(FAULT, "no memory")
    with pytest.raises(
        TeacherError, match=r"exit status 1.*gpu_memory_utilization=0\.7(.|\n)*Free memory on device"
    ):
        bound(environment, model_folder, gpu_memory_utilization=0.7)
    monkeypatch.setenv(FAULT, "hangs")
    with pytest.raises(TeacherError, match=r"did not answer within 2 s(.|\n)*start_timeout_s=2"):
        bound(environment, model_folder, start_timeout_s=2.0)
    assert all_gone(facts()["pids"], limit_s=0.5)


def test_its_death_in_the_middle_ends_the_run_at_once(
    environment, model_folder, corpus, tmp_path, monkeypatch
):
    monkeypatch.setenv(FAULT, "dies after 12")
    began = time.monotonic()
    with pytest.raises(
        TeacherError, match=r"vLLM has ended with exit status 1.*--resume auto.*\n.*OutOfMemory"
    ) as caught:
        data = new_data(corpus, teacher=VLLM(python=str(environment)))
        fit(tmp_path / "run", new_module(model_folder), data, max_steps=50)
    assert time.monotonic() - began < 60, "an OpenAITeacher would wait for three minutes"
    log = Path(re.search(r"its log is (/\S*vllm\.log)", str(caught.value))[1])
    assert "OutOfMemory" in log.read_text(), "what the error names is kept"


def test_another_error_of_the_run_ends_it(environment, model_folder, corpus, tmp_path, facts):
    import lightning as L

    class Fails(L.Callback):
        def on_train_batch_end(self, *_):
            assert all(map(alive, facts()["pids"]))
            raise ArithmeticError("of the run")

    data = new_data(corpus, teacher=VLLM(python=str(environment)))
    with pytest.raises(ArithmeticError, match="of the run"):
        fit(tmp_path / "run", new_module(model_folder), data, Fails())
    assert all_gone(facts()["pids"], limit_s=0.5)


def test_conversations_without_a_run(environment, model_folder, corpus, tmp_path, facts, monkeypatch):
    """``synthesize`` loads no model of its own, and has the engine's dtype from the config."""
    monkeypatch.setattr(
        LitCartridge, "load_teacher", lambda self: pytest.fail("a second copy of the weights")
    )
    settings = ["--model.model", model_folder, "--model.num_tokens", "8", "--data.corpus", corpus]
    source = {
        "teacher": "VLLM",
        "teacher.python": str(environment),
        "min_chunk_tokens": 20,
        "max_chunk_tokens": 40,
    }
    source |= {"question_max_tokens": 5, "answer_max_tokens": 8, "top_k": 4, "conversations_per_group": 4}
    settings += [text for name, value in source.items() for text in (f"--data.source.{name}", str(value))]
    output = tmp_path / "made.parquet"
    assert synthesize_command(output=output, num_conversations=8, fit_arguments=settings) == 8
    argv = facts()["argv"]
    assert argv[argv.index("--dtype") + 1] == "float32" and all_gone(facts()["pids"], limit_s=0.5)
    assert len(read_conversations(output)) == 8


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_fit_from_the_command_line_takes_it_along(
    environment, model_folder, corpus, tmp_path, facts, number
):
    command = [
        sys.executable,
        "-m",
        "lit_cartridges.cli",
        "fit",
        "--model.model",
        model_folder,
        "--model.num_tokens",
        "8",
    ]
    command += [
        "--data.corpus",
        corpus,
        "--data.source.teacher",
        "VLLM",
        "--data.source.min_chunk_tokens",
        "20",
    ]
    command += ["--data.source.max_chunk_tokens", "40", "--data.source.question_max_tokens", "5"]
    command += [
        "--data.source.answer_max_tokens",
        "8",
        "--trainer.max_steps",
        "100000",
        "--trainer.accelerator",
        "cpu",
    ]
    command += [
        "--data.groups_per_round",
        "1",
        "--data.source.top_k",
        "4",
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
    ]
    with (tmp_path / "said").open("w") as said:
        run = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=said,
            stderr=said,
            env=os.environ | {engine.PYTHON_VARIABLE: str(environment)},
        )
    try:
        recording, end = tmp_path / "run" / "recording", time.monotonic() + 120
        while not any(recording.glob("*.parquet")) and run.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        pids = facts()["pids"]
        assert all(map(alive, pids)), (tmp_path / "said").read_text()[-3000:]
        run.send_signal(number)
        run.wait(60)
    finally:
        run.kill()
    assert all_gone(pids)
    if number != signal.SIGKILL:
        assert not Path(facts()["folder"]).exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": ["--port=1"]}, "--port is the teacher's own"),
        ({"options": ["--api_key", "secret"]}, "--api_key is the teacher's own"),
        ({"options": ["--serv=x"]}, "--serv is the teacher's own"),
        ({"options": ["enforce-eager"]}, "must begin with an option"),
        ({"devices": [0, 1]}, "as many devices"),
        ({"gpu_memory_utilization": 0.0}, "must be above 0"),
        ({"gpu_memory_utilization": 1.5}, "must be at most 1"),
    ],
)
def test_bad_settings_are_refused_without_telling_a_secret(settings, message):
    with pytest.raises(SettingError, match=message) as caught:
        VLLM(**settings)
    assert "secret" not in str(caught.value)


def test_models_that_it_cannot_serve_are_refused_by_name(model_folder, tmp_path):
    teacher = VLLM()
    with pytest.raises(TeacherError, match="names none; choose LocalTeacher"):
        teacher.expect_model(None, longest_tokens=10)
    with pytest.raises(SettingError, match=r"model\.model=.*quantised"):
        teacher.expect_model(
            named(model_folder, quantization_config={"load_in_4bit": True}), longest_tokens=10
        )
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": model_folder, "r": 4, "lora_alpha": 8})
    )
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(SettingError, match=r"model\.teacher_model=.*is a PEFT adapter"):
        teacher.expect_model(named(adapter, setting="model.teacher_model"), longest_tokens=10)
    with pytest.raises(SettingError, match=r"max_model_len=50.*take 90 tokens"):
        VLLM(max_model_len=50).expect_model(named(model_folder), longest_tokens=90)


def test_the_interpreter_is_looked_for_before_a_model_is_loaded(
    environment, model_folder, corpus, tmp_path, monkeypatch
):
    monkeypatch.delenv(engine.PYTHON_VARIABLE, raising=False)
    (tmp_path / "vllm").mkdir()
    monkeypatch.syspath_prepend(tmp_path)  # a folder of that name is no package
    with pytest.raises(SettingError, match=f"not installed beside.*{engine.PYTHON_VARIABLE}"):
        engine.vllm_python(None)
    with pytest.raises(
        SettingError, match="python='/nowhere': is no interpreter|python='/nowhere' is no interpreter"
    ):
        engine.vllm_python("/nowhere")
    with pytest.raises(SettingError, match="has no vllm"):
        engine.vllm_python(sys.executable)
    monkeypatch.setenv(engine.PYTHON_VARIABLE, str(environment / "bin" / "python"))
    assert (
        engine.vllm_python(None)
        == str(environment / "bin" / "python")
        == engine.vllm_python(str(environment))
    )
    module = new_module(model_folder)
    with pytest.raises(SettingError, match="has no vllm"):
        fit(tmp_path / "run", module, new_data(corpus, teacher=VLLM(python=sys.executable)))
    assert module.student is None


def test_devices_count_as_the_run_counts_them(monkeypatch):
    with pytest.raises(SettingError, match=r"devices=\[0\].*no CUDA device"):
        engine.visible_devices([0])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert engine.visible_devices([2, 0]) == "2,0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,6")
    assert engine.visible_devices([2, 0]) == "6,4"
    for bad in ([3], [-1], [1, 1], []):
        with pytest.raises(SettingError, match="CUDA devices 0 to 2"):
            engine.visible_devices(bad)


def test_a_folder_is_named_from_the_root_since_the_server_runs_elsewhere(model_folder, monkeypatch):
    folder = Path(model_folder)
    monkeypatch.chdir(folder.parent)
    assert engine.served_files(named(folder.name)) == (str(folder), None)


def test_what_it_is_started_with(model_folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("PYTHONPATH", "/ours")
    started = engine.Engine(
        python="/other/python",
        model=named(model_folder, token="hf_secret", trust_remote_code=True),
        dtype="bfloat16",
        max_model_len=4096,
        max_logprobs=20,
        gpu_memory_utilization=0.9,
        tensor_parallel_size=2,
        devices=[1, 0],
        options=["--max-num-seqs=64"],
        key="k",
    )
    command, changes = started.command(8123), started.environment()
    assert command[:3] == ["/other/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert command[3] == "--max-num-seqs=64" and command[-1] == "--trust-remote-code"
    assert "hf_secret" not in command and changes["HF_TOKEN"] == "hf_secret"
    assert changes["CUDA_VISIBLE_DEVICES"] == "1,0" and changes["PYTHONPATH"] is None
