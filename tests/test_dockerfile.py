"""The Dockerfile, as far as it can be looked at without building it."""

from __future__ import annotations

import fnmatch
import inspect
import json
import re
import shlex
import tomllib
from pathlib import Path

from lit_cartridges.commands.serve import KEY_VARIABLE, serve_command
from lit_cartridges.serving.vllm.server import BELOW, OLDEST
from lit_cartridges.teachers.vllm_engine import PYTHON_VARIABLE

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest), comments left out and lines that go on joined."""
    plain = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))
    lines = plain.replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines) if name]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name; the last one, which is built by default, is ""."""
    found: dict[str, list[tuple[str, str]]] = {"before": []}
    name = "before"
    for instruction, rest in instructions():
        if instruction == "FROM":
            name = rest.partition(" AS ")[2]
            assert name not in found
            found[name] = []
        found[name].append((instruction, rest))
    assert name == "", "the last stage is what `docker build .` makes"
    return found


def value_of(instruction: str, stage: str) -> str:
    [value] = [rest for name, rest in stages()[stage] if name == instruction]
    return value


def test_every_instruction_is_one_of_dockers():
    known = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "WORKDIR"}
    assert {name for name, _ in instructions()} <= known


def test_stages_build_on_what_stands_above_them_and_variables_are_declared():
    above, inherited = ["${CUDA_IMAGE}"], {}
    for name, lines in stages().items():
        known = set()
        for instruction, rest in lines:
            if instruction == "FROM":
                source = rest.split()[0]
                assert source in above
                known = set(inherited.get(source, ()))
                known |= {"CUDA_IMAGE"}
            elif instruction in ("ARG", "ENV"):
                known |= {re.split("[= ]", one)[0] for one in shlex.split(rest)}
            for used in re.findall(r"\$\{?([A-Z_]+)", rest):
                assert used in known | {"PATH"}, f"{instruction} {rest} uses {used}"
        above.append(name)
        inherited[name] = known


def test_what_is_copied_is_there_and_not_left_out():
    [copied] = [rest for name, rest in instructions() if name == "COPY"]
    assert copied == ". ."
    left_out = (ROOT / ".dockerignore").read_text().split()
    for needed in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "MANIFEST.in"):
        assert (ROOT / needed).is_file()
        assert not any(fnmatch.fnmatch(needed, pattern) for pattern in left_out), needed
    for folder in ("lit_cartridges", "callbacks", "recipes", "tests", "benchmarks"):
        assert (ROOT / folder).is_dir() and folder not in left_out
    assert {".git", ".venv", "runs"} <= set(left_out), "neither history nor runs go into an image"


def test_the_install_step_and_its_extras_exist():
    made = [rest.split()[1] for name, rest in instructions() if name == "RUN" and rest.startswith("make ")]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert made == ["install"] and set(made) <= set(targets)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "deepspeed" in extras and "EXTRAS=deepspeed" in TEXT
    assert any("serve" in line for line in extras["test"]), "make install brings what `serve` needs"


def test_the_image_that_serves_asks_for_what_serve_takes():
    lines = stages()["serve"]
    oldest, below = (".".join(map(str, version)) for version in (OLDEST, BELOW))
    assert ("ARG", f'VLLM="vllm>={oldest},<{below}"') in lines
    variable, folder = value_of("ENV", "serve").split("=")
    assert variable == PYTHON_VARIABLE and f"-m venv {folder} " in value_of("RUN", "serve")
    command, name, runs, *options = json.loads(value_of("ENTRYPOINT", "serve"))
    assert (command, name, runs) == ("lit-cartridges", "serve", "runs")
    given = dict(zip(options[::2], options[1::2], strict=True))
    parameters = inspect.signature(serve_command).parameters
    assert {option.removeprefix("--") for option in given} <= set(parameters)
    assert given["--engine"] == "vllm"
    port = parameters["port"].default
    assert value_of("EXPOSE", "serve") == str(port)
    assert f"http://127.0.0.1:{port}/ready" in value_of("HEALTHCHECK", "serve")
    assert f"-e {KEY_VARIABLE}=" in TEXT and f"-p 127.0.0.1:{port}:{port}" in TEXT
    assert f"{value_of('WORKDIR', 'base')}/{runs}" in TEXT, (
        "the folder that is mounted is the one that is served"
    )
