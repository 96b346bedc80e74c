"""Every option of every command, found by introspection, and command lines that set one of them to a wrong value."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch

from lit_cartridges.cartridge import Cartridge, Provenance
from lit_cartridges.cartridge_cli import trainer_parser
from lit_cartridges.cli import main
from lit_cartridges.command_line.functions import function_parser
from lit_cartridges.commands import TRAINER_COMMANDS, load_command
from lit_cartridges.commands.reproduce import table_command
from lit_cartridges.pocket.world import World
from lit_cartridges.reproductions.tables import TABLES
from tests.evals.test_quality_and_qasper import quality_file
from tests.evals.test_translation import kalamang_files, mtob_files
from tests.teachers.engine_program import engine_environment
from tests.tiny_run import save_corpus, save_model, save_recording

# What a command ends with that has found nothing wrong, and of a file of weights that is none, what reading it says.
_REACHED = {"demo": "that the pocket language does not know", "compare-inits": "--options.Nope.std"}
_MODEL_REACHED = "its file model.safetensors is truncated or damaged"
TABLE = "longhealth"  # of reproduce: the one whose options are walked
_NOT_SETTINGS = {"help", "config", "print_config", "print_shtab", "version", "subcommand"}


@dataclass(frozen=True)
class Place:
    """A folder with all that the commands need to come as far as the model, whose weights cannot be read."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Place:
        save_model(folder / "model")
        (folder / "model" / "model.safetensors").write_bytes(b"\xff" * 64)
        save_corpus(folder / "corpus.txt")
        engine_environment(folder / "vllm-env")
        (folder / "questions.jsonl").write_text('{"question": "w1", "answer": "w2"}\n')
        patient = {"name": "w1", "birthday": "w2", "diagnosis": "w3", "texts": {"text_01": "w4 w5"}}
        question = {
            "question": "w6",
            "correct": "w0",
            **{f"answer_{x}": f"w{i}" for i, x in enumerate("abcde")},
        }
        patients = {"patient_01": {**patient, "questions": [question]}}
        (folder / "patients.json").write_text(json.dumps(patients))
        asked = {"question": "w1", "answers": [{"text": "w2", "answer_start": 0}]}
        article = {"title": "w3", "paragraphs": [{"context": "w2", "qas": [asked]}]}
        (folder / "articles.json").write_text(json.dumps({"data": [article]}))
        instructed = {"prompt": "w1", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
        (folder / "instructed.jsonl").write_text(json.dumps(instructed))
        (folder / "general.txt").write_text("".join(f"w{i} w{i + 1}\n" for i in range(60)))
        (folder / "pocket.txt").write_text(World(1).corpus(100).text)
        save_recording(folder / "recorded.parquet")
        kalamang_files(folder / "kalamang")
        mtob_files(folder / "mtob")
        quality_file(folder / "quality.jsonl")
        tensors = [[torch.zeros(2, 8, 8)] * 2 for _ in range(2)]
        known = Provenance(base_model=str(folder / "model"))
        Cartridge(*tensors, num_frozen_tokens=1, provenance=known).save_pretrained(folder / "cartridge")
        return cls(folder)

    @property
    def fit(self) -> dict[str, str]:
        return {
            "--model.model": f"{self.folder / 'model'}",
            "--model.num_tokens": "8",
            "--data.corpus": f"{self.folder / 'corpus.txt'}",
            "--data.source.min_chunk_tokens": "20",
            "--data.source.max_chunk_tokens": "40",
            "--data.source.question_max_tokens": "8",
            "--data.source.answer_max_tokens": "8",
            "--trainer.default_root_dir": f"{self.folder / 'run'}",
            "--trainer.accelerator": "cpu",
            "--trainer.max_steps": "1",
        }

    def base(self, command: str) -> dict[str, str]:
        """Options with which the command comes as far as the model."""
        model = f"{self.folder / 'model'}"
        cascade = {
            "--cascade.total_tokens": "36",
            "--cascade.stride_tokens": "16",
            "--cascade.sink_tokens": "4",
        }
        task = {"--task": "QuestionFile", "--task.path": f"{self.folder / 'questions.jsonl'}"}
        corpus = f"{self.folder / 'corpus.txt'}"
        return {
            **dict.fromkeys(TRAINER_COMMANDS, self.fit),
            "estimate": {"--chip": "h100", **self.fit},
            "synthesize": {"--output": f"{self.folder / 'made.parquet'}", **self.fit},
            "evaluate": {
                **task,
                "--model": model,
                "--systems": "[no_context,cascade]",
                "--corpus": corpus,
                **cascade,
            },
            "perplexity": {"--model": model, "--corpora": f"[{corpus}]", "--systems": "[cascade]", **cascade},
            "passkey": {"--model": model, "--systems": "[cascade]", "--lengths": "[60]", **cascade},
            # Ends where all of the command's own options have been looked at.
            "compare-inits": {"--folder": f"{self.folder / 'compared'}", "--options.Nope.std": "1"},
            "report": {"--out": f"{self.folder / 'page.html'}"},
            "demo": {"--folder": f"{self.folder / 'demo'}", "--corpus": corpus},
            "reproduce": {
                "--path": f"{self.folder / 'patients.json'}",
                "--patients": "[patient_01]",
                "--model": model,
                "--num_tokens": "[]",
                "--samples": "1",
                "--folder": f"{self.folder / 'reproduced'}",
                "--device": "cpu",
            },
            "compose": {"--output": f"{self.folder / 'both'}"},
            "convert": {"--to": "peft"},
            "serve": {"--port": "0"},
            "router": {
                "--questions": f"{self.folder / 'recorded.parquet'}",
                "--negatives": f"{self.folder / 'general.txt'}",
            },
        }.get(command, {})

    def tidy(self) -> None:
        """Remove what a command has made of a wrong value that is right for it."""
        for value in self.wrong_values().values():
            if value and "/" not in value:
                shutil.rmtree(Path(value), ignore_errors=True)
        shutil.rmtree(self.folder / "nowhere", ignore_errors=True)

    def wrong_values(self) -> dict[str, str]:
        """Of each kind, by its name; few options have a use for one of them."""
        return {
            "a word": "no-such-thing",
            "negative": "-3",
            "zero": "0",
            "not a number": "nan",
            "infinite": "inf",
            "huge": str(10**18),
            "a fraction": "0.37",
            "empty": "",
            "an empty list": "[]",
            "a list too long": "[1,2,3,4,5,6,7]",
            "a missing file": f"{self.folder / 'nowhere' / 'file.json'}",
            "a folder": f"{self.folder}",
            "not writable": "/proc/no/such.json",
            "a mapping": "{no_such_key: 1}",
        }


@dataclass(frozen=True)
class Ending:
    """How a command line ended."""

    status: str
    told: str
    seconds: float

    def kind(self, command: str, flag: str) -> str:
        """``refused``: in one line that names the flag as it was typed; ``accepted``; or what else happened."""
        if self.status == "0" or _MODEL_REACHED in self.told or _REACHED.get(command, "\0") in self.told:
            return "accepted"
        if self.status != "2":
            return f"ended with {self.status}"
        if self.told.count("\n") != 1:
            return f"told {self.told.count(chr(10))} lines"
        return "refused" if is_named(flag, self.told) else "not named"


def run(argv: list[str]) -> Ending:
    """In this process; another error than a refusal ends as its class's name."""
    out, err = io.StringIO(), io.StringIO()
    begun = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(argv)
            status = "0"
        except SystemExit as end:
            status = str(end.code)
            if status == "130":  # Ctrl-C is for the tests
                raise KeyboardInterrupt from end
        except Exception as error:
            status = type(error).__name__
    return Ending(status, err.getvalue(), time.perf_counter() - begun)


def option_names(command: str) -> list[str]:
    """Flags of the command's own parser, and of the classes that may be named under one of them."""
    flags = []
    for action in _parser(command)._actions:
        name = next((flag for flag in action.option_strings if flag.startswith("--")), "")
        if name and action.dest.rpartition(".")[2] not in _NOT_SETTINGS and not name.endswith(".help"):
            flags.append(name)
    return flags


def class_options(command: str, place: Place) -> Iterator[tuple[str, dict[str, str]]]:
    """``(flag, options beside it)`` of every option of every class that the command's options may name."""
    from lit_cartridges.callbacks import CompositionTest, LongContextEval, RouterFile
    from lit_cartridges.data import RawCorpus, Recorded
    from lit_cartridges.evals import (
        HeldOutConversations,
        IFEval,
        Kalamang,
        LongHealth,
        Mrcr,
        Mtob,
        Qasper,
        Quality,
        QuestionFile,
        Ruler,
        Squad,
    )
    from lit_cartridges.init import INITS
    from lit_cartridges.pocket.off_corpus import PocketNotes, PocketUnknown
    from lit_cartridges.pocket.passkey import PocketPasskey
    from lit_cartridges.pocket.task import PocketQuestions
    from lit_cartridges.pocket.text_task import TextQuestions
    from lit_cartridges.teachers import VLLM, LocalTeacher, OpenAITeacher

    classes: dict[str, list[tuple[str, list[type]]]] = {
        "fit": [
            ("--model.init", list(INITS.values())),
            ("--data.source", [RawCorpus, Recorded]),
            ("--data.source.teacher", [LocalTeacher, OpenAITeacher, VLLM]),
            ("--trainer.callbacks", [LongContextEval, CompositionTest, RouterFile]),
        ],
        "evaluate": [
            (
                "--task",
                [
                    QuestionFile,
                    LongHealth,
                    Mrcr,
                    Ruler,
                    Squad,
                    IFEval,
                    Kalamang,
                    Mtob,
                    Qasper,
                    Quality,
                    HeldOutConversations,
                    PocketQuestions,
                    TextQuestions,
                    PocketNotes,
                    PocketUnknown,
                ],
            )
        ],
        "passkey": [("--language", [PocketPasskey])],
    }
    needed = {
        "OpenAITeacher": {"base_urls": "http://localhost:1/v1", "model": "m"},
        "VLLM": {"python": f"{place.folder / 'vllm-env'}"},
        "Recorded": {"path": f"{place.folder / 'recorded.parquet'}"},
        "PocketQuestions": {"seed": "1", "num_tokens": "200"},
        **dict.fromkeys(("PocketNotes", "PocketUnknown"), {"seed": "1"}),
        "QuestionFile": {"path": f"{place.folder / 'questions.jsonl'}"},
        "LongHealth": {"path": f"{place.folder / 'patients.json'}"},
        "Kalamang": {
            "grammar": f"{place.folder / 'kalamang' / 'grammar'}",
            "examples": f"{place.folder / 'kalamang' / 'examples.csv'}",
        },
        "Mtob": {"path": f"{place.folder / 'mtob'}"},
        "Qasper": {"path": f"{place.folder / 'questions.jsonl'}"},
        "Quality": {"path": f"{place.folder / 'quality.jsonl'}"},
        "Mrcr": {"model": f"{place.folder / 'model'}", "num_tokens": "4000"},
        "Ruler": {
            "kind": "niah_single_1",
            "model": f"{place.folder / 'model'}",
            "num_tokens": "400",
            "questions_per_text": "2",
            "haystack": f"{place.folder / 'pocket.txt'}",
            "documents": f"{place.folder / 'articles.json'}",
        },
        "Squad": {"path": f"{place.folder / 'articles.json'}"},
        "IFEval": {"path": f"{place.folder / 'instructed.jsonl'}"},
        "HeldOutConversations": {"path": f"{place.folder / 'recorded.parquet'}"},
        "TextQuestions": {"path": f"{place.folder / 'pocket.txt'}"},
        "FromCartridge": {"path": f"{place.folder / 'cartridge'}"},
        "Text": {"path": f"{place.folder / 'corpus.txt'}"},
    }
    task = {"class_path": "QuestionFile", "init_args": {"path": f"{place.folder / 'questions.jsonl'}"}}
    needed["LongContextEval"] = {"task": json.dumps(task)}
    needed["CompositionTest"] = {
        "task": json.dumps(task),
        "others": json.dumps([{"path": f"{place.folder / 'cartridge'}", "task": task}]),
    }
    for flag, known in classes.get(command, []):
        for one in known:
            beside = {flag: f"{one.__module__}.{one.__qualname__}"}
            if one is RawCorpus:
                beside["--model.objective"] = "NextToken"
            beside |= {f"{flag}.{name}": value for name, value in needed.get(one.__name__, {}).items()}
            for name in inspect.signature(one).parameters:
                yield f"{flag}.{name}", beside


def command_line(
    command: str, place: Place, flag: str, value: str, beside: dict[str, str] | None = None
) -> list[str]:
    """The command with all that it needs, and one option set to ``value``, last."""
    base = place.base(command)
    if beside:  # another class than the base has
        above = flag.rpartition(".")[0]
        base = {name: text for name, text in base.items() if not name.startswith(f"{above}.")} | beside
    base.pop(flag, None)
    rest = [f"{place.folder / 'cartridge'}"] if command in ("chat", "compose", "convert") else []
    rest += [f"{place.folder / 'out'}"] if command == "convert" else []
    rest += [TABLE] if command == "reproduce" else []
    rest += (
        [f"{place.folder}"] if command in ("report", "router", "serve") else []
    )  # which holds a cartridge, as a run's folder does
    return [command, *rest, *(f"{name}={text}" for name, text in base.items()), f"{flag}={value}"]


def some(kinds: dict[str, str], flag: str, count: int) -> dict[str, str]:
    """``count`` of the kinds, which the flag's name decides, so that together the options meet them all."""
    names = sorted(kinds, key=lambda kind: crc32(f"{flag} {kind}".encode()))
    return {name: kinds[name] for name in names[:count]}


def is_named(flag: str, told: str) -> bool:
    """Whether the message has the flag as it was typed."""
    return re.search(rf"(?<![\w.]){re.escape(flag)}(?![\w-])", told) is not None


def _parser(command: str) -> Any:
    if command == "reproduce":
        return function_parser(table_command(TABLES[TABLE]), prog=command)
    if command not in TRAINER_COMMANDS:
        return function_parser(load_command(command), prog=command)
    return trainer_parser(command)
