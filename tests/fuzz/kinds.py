"""The kinds of file that the package reads: a whole one of each, its reader, and how it is spoilt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.cascade import CascadingCache, cascade_prefill
from lit_cartridges.cascade.state import CascadeFileError
from lit_cartridges.conversations.parquet import read_conversations
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.conversations.tokenizer_check import RecordingError
from lit_cartridges.corpora.open_corpus import CorpusError, open_corpus
from lit_cartridges.evals.result_file import Evaluation, EvaluationFileError
from lit_cartridges.evals.tasks.longhealth import LongHealth, LongHealthCorpus
from lit_cartridges.evals.tasks.question_file import QuestionFile
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.formats import FORMATS
from lit_cartridges.formats.hazyresearch import write_cache
from lit_cartridges.runs.checkpoint_files import CheckpointFileError, resume_path
from tests.formats.cartridges import drawn, prefilled, with_biases
from tests.fuzz import mutations as spoil
from tests.teachers.test_foreign_conversations import question_and_answer as theirs
from tests.teachers.test_foreign_conversations import their_file, their_line, their_row
from tests.tiny_models import tiny_model
from tests.tiny_run import save_recording, tokenizer


@dataclass(frozen=True)
class Kind:
    """A file or a folder of files that are read as one.

    Attributes:
        make: writes whole ones below a folder, and returns the path that the reader is given.
        read: what the path holds, as text that is equal for equal content. It reads all that the package would.
        error: what the reader may raise.
        spoilt: by the file's name, ways to spoil it whose result has a checksum that no longer fits: no other content
            may be read. Names end as those that ``make`` wrote.
        forged: ways whose result has no checksum, or a right one: other content may be read, if it is valid.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], str]
    error: type[Exception]
    spoilt: Mapping[str, tuple[spoil.Spoil, ...]] = field(default_factory=dict)
    forged: Mapping[str, tuple[spoil.Spoil, ...]] = field(default_factory=dict)


def _cartridge(cartridge: Cartridge) -> str:
    digest = sha256(repr((cartridge.num_frozen_tokens, cartridge.provenance)).encode())
    for name, x in sorted(cartridge.state_dict().items()):
        assert x.dtype == torch.float32 and torch.isfinite(x).all() and x.ndim in (2, 3) and min(x.shape[::2])
        digest.update(f"{name} {list(x.shape)}".encode() + x.numpy().tobytes())
    return digest.hexdigest()


def _lit(folder: Path) -> Path:
    return prefilled("llama", tokens=6).save_pretrained(folder / "cartridge")


def _with_biases(folder: Path) -> Path:
    return with_biases(drawn(tokens=4, notes={"a": [1]}, loss=0.5)).save_pretrained(folder / "cartridge")


def _lit_before_checksums(folder: Path) -> Path:
    path = _lit(folder)
    known = json.loads((path / "cartridge.json").read_text())
    del known["sha256"], known["tensors_sha256"]
    file = path / "cartridge.safetensors"
    save_file(load_file(file), file, metadata={"cartridge": json.dumps(known)})
    (path / "cartridge.json").write_text(json.dumps(known))
    return path


def _other(name: str, place: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        FORMATS[name].write(drawn(base_model="some/model"), folder / place, dtype=torch.float32)
        return folder / place

    return make


def _pickled_peft(folder: Path) -> Path:
    path = _other("peft", "adapter")(folder)
    torch.save(load_file(path / "adapter_model.safetensors"), path / "adapter_model.bin")
    (path / "adapter_model.safetensors").unlink()
    return path


def _old_torch(folder: Path) -> Path:
    write_cache(drawn(), folder / "cache.pt", torch.float32)
    lists = torch.load(folder / "cache.pt", weights_only=False)
    content = {name: [x.detach() for x in tensors] for name, tensors in lists.items()}
    torch.save(content, folder / "cache.pt", _use_new_zipfile_serialization=False)
    return folder / "cache.pt"


def _read(name: str) -> Callable[[Path], str]:
    return lambda path: _cartridge(FORMATS[name].read(path, trust_pickle=True))


def _conversations(path: Path) -> str:
    told = []
    for c in read_conversations(path, tokenizer=tokenizer()):
        for message in c.messages:
            top = message.top_logprobs
            assert (message.token_ids < len(tokenizer())).all() and message.content.encode() is not None
            told.append((message.role, message.content, message.token_ids.tolist()))
            told.append(
                top and (top.token_idx.tolist(), top.token_id.tolist(), top.logprobs.tolist(), top.shape)
            )
        told.append((c.system_prompt.encode(), sorted(c.metadata.items()), c.type))
    return repr(told)


def _written(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return make


def _peft_lines(folder: Path) -> Path:
    lines = (json.dumps(their_line(f"w{i}", f"w{i + 1}")) for i in range(4))
    return _written("conversations.jsonl", "\n".join(lines))(folder)


def _foreign(folder: Path) -> Path:
    return their_file(folder / "theirs.parquet", [their_row(*theirs()) for _ in range(3)])


def _settings(folder: Path) -> Path:
    Recording(folder / "r", settings=_SETTINGS).append(0, [])
    return folder / "r"


def _checkpoint(folder: Path) -> Path:
    state = {f"cartridge.{name}": x for name, x in drawn().state_dict().items()}
    torch.save({"state_dict": state, "global_step": 3, "loops": {"a": [1, 2]}}, folder / "last.ckpt")
    return folder


def _read_checkpoint(folder: Path) -> str:
    path = resume_path(folder, tell=lambda _: None)
    assert path is not None
    return repr([(k, v) for k, v in torch.load(path, weights_only=True).items()])


def _cascade(folder: Path) -> Path:
    model = tiny_model("llama")
    cache = CascadingCache(config=model.config, sink_tokens=2, cascades=2, total_tokens=18, stride_tokens=4)
    cascade_prefill(model, cache, torch.arange(3, 33)[None])
    return cache.save(folder / "cascade.safetensors")


def _read_cascade(path: Path) -> str:
    cache = CascadingCache.load(path, config=tiny_model("llama").config)
    names = ("keys", "values", "scores", "tokens", "seen", "counts")
    tensors = [
        getattr(layer, name).tolist() for layer in cache.layers for name in names if layer.is_initialized
    ]
    return repr((cache.settings(), [layer.cumulative_length for layer in cache.layers], tensors))


def _corpus(path: Path) -> str:
    corpus = open_corpus(path)
    return f"{corpus.sha256} {len(corpus.token_ids(tokenizer()))}"


def _questions(path: Path) -> str:
    questions = QuestionFile(path=path).questions()
    return repr([(q.prompt.encode(), q.answer.encode(), q.choices) for q in questions])


def _evaluation(path: Path) -> str:
    return repr(Evaluation.read(path))


def _longhealth(path: Path) -> str:
    return repr(LongHealth(path=path).questions()) + LongHealthCorpus(path=path).sha256


def _written_table(folder: Path) -> Path:
    pq.write_table(pa.table({"text": ["w1 w2", None, "w3 w4 w5"], "n": [1, 2, 3]}), folder / "a.parquet")
    return folder / "a.parquet"


_SETTINGS = {"seed": 0, "temperature": 0.5, "prompts": ["a"]}
_DOCUMENTS = [{"text": "w1 w2", "n": 1}, {"text": "w3", "deep": {"a": [1, None]}}]
_QUESTIONS = [
    {"question": "w1", "answer": "w2"},
    {"question": "w3", "answer": "b", "choices": ["a", "b", 3]},
]
_ASKED = {"question": "q", "correct": "o2", **{f"answer_{x}": f"o{i}" for i, x in enumerate("abcde")}}
_PATIENT = {"name": "A", "birthday": "b", "diagnosis": "d", "texts": {"t": "w1"}, "questions": [_ASKED]}
_REPLY = {"prompt": "w1", "answer": "w2", "reply": "w3", "right": False, "log_likelihood": -0.5}
_RESULT = {
    "system": "cartridge",
    "task": "t",
    "accuracy": 0.5,
    "accuracy_standard_error": 0.1,
    "replies": [_REPLY],
}
_RESULT |= {"answer_log_likelihood": -1.5, "seconds_per_answer": 0.1, "prefill_s": 0.0, "batch_size": 4}
_EVALUATION = {"task": "t", "results": [_RESULT | {"num_kv_tokens": 8, "kv_bytes": 64, "num_questions": 1}]}
_MARKDOWN = "---\na: b\n---\n# w1\nw2\n```\n# no\n```\n# w3\nw4\n"

_BYTES = (spoil.spoil_bytes,)
_JSON, _LINES = (*_BYTES, spoil.spoil_json), (*_BYTES, spoil.spoil_json_line)
_HEADER, _SEALED = (*_BYTES, spoil.spoil_header), (spoil.spoil_sealed,)
_YAML = (*_BYTES, spoil.spoil_yaml, spoil.spoil_yaml)
_ARCHIVE, _COLUMNS = (spoil.spoil_archive,), (spoil.spoil_columns,)
_TENSORS = "cartridge.safetensors"


def _cartridges(name: str, make: Callable[[Path], Path], form: str, **ways: Any) -> Kind:
    return Kind(name, make, _read(form), CartridgeFileError, **ways)


def _text(name: str, end: str, text: str, read: Callable[[Path], str], error: Any, ways: Any) -> Kind:
    return Kind(name, _written(f"a{end}", text), read, error, forged={end: ways})


KINDS: tuple[Kind, ...] = (
    _cartridges(
        "cartridge",
        _lit,
        "lit_cartridges",
        spoilt={_TENSORS: _HEADER, "cartridge.json": _JSON},
        forged={_TENSORS: _SEALED},
    ),
    _cartridges(
        "cartridge with biases",
        _with_biases,
        "lit_cartridges",
        spoilt={_TENSORS: _HEADER},
        forged={_TENSORS: _SEALED},
    ),
    _cartridges(
        "cartridge without checksums", _lit_before_checksums, "lit_cartridges", forged={_TENSORS: _HEADER}
    ),
    _cartridges(
        "PEFT adapter",
        _other("peft", "adapter"),
        "peft",
        forged={"adapter_model.safetensors": _HEADER, "adapter_config.json": _JSON},
    ),
    _cartridges(
        "PEFT adapter, pickled", _pickled_peft, "peft", spoilt={".bin": _BYTES}, forged={".bin": _ARCHIVE}
    ),
    _cartridges(
        "HazyResearch .pt",
        _other("hazyresearch", "c.pt"),
        "hazyresearch",
        spoilt={".pt": _BYTES},
        forged={".pt": _ARCHIVE},
    ),
    _cartridges("HazyResearch .pt, old torch", _old_torch, "hazyresearch", forged={".pt": _BYTES}),
    _cartridges(
        "Tokasaurus folder",
        _other("tokasaurus", "t"),
        "tokasaurus",
        spoilt={".pt": _BYTES},
        forged={"config.yaml": _YAML},
    ),
    Kind(
        "recording",
        lambda folder: Path(save_recording(folder / "r.parquet", 6)),
        _conversations,
        RecordingError,
        spoilt={".parquet": _BYTES},
        forged={".parquet": _COLUMNS},
    ),
    Kind(
        "HazyResearch Parquet",
        _foreign,
        _conversations,
        RecordingError,
        forged={".parquet": (*_BYTES, *_COLUMNS)},
    ),
    Kind("PEFT JSONL", _peft_lines, _conversations, RecordingError, forged={".jsonl": _LINES}),
    Kind(
        "recording's settings",
        _settings,
        lambda path: repr(Recording(path, settings=_SETTINGS).groups()),
        RecordingError,
        spoilt={"settings.json": _JSON},
    ),
    _text("corpus .txt", ".txt", "w1 w2 w3\n" * 9, _corpus, CorpusError, _BYTES),
    _text("corpus .md", ".md", _MARKDOWN, _corpus, CorpusError, _BYTES),
    _text("corpus .json", ".json", json.dumps(_DOCUMENTS), _corpus, CorpusError, _JSON),
    _text("corpus .jsonl", ".jsonl", "\n".join(map(json.dumps, _DOCUMENTS)), _corpus, CorpusError, _LINES),
    Kind(
        "corpus .parquet",
        _written_table,
        _corpus,
        CorpusError,
        forged={".parquet": (*_BYTES, *_COLUMNS)},
    ),
    _text("questions .json", ".json", json.dumps(_QUESTIONS), _questions, EvalError, _JSON),
    _text(
        "questions .jsonl", ".jsonl", "\n".join(map(json.dumps, _QUESTIONS)), _questions, EvalError, _LINES
    ),
    _text("LongHealth", ".json", json.dumps({"patient_01": _PATIENT}), _longhealth, ValueError, _JSON),
    _text("evaluation", ".json", json.dumps(_EVALUATION), _evaluation, EvaluationFileError, _JSON),
    Kind(
        "checkpoint",
        _checkpoint,
        _read_checkpoint,
        CheckpointFileError,
        spoilt={".ckpt": _BYTES},
        forged={".ckpt": _ARCHIVE},
    ),
    Kind("cascade", _cascade, _read_cascade, CascadeFileError, spoilt={".safetensors": _HEADER}),
)

_ASKED_FORMATS = ("lit_cartridges", "peft", "hazyresearch", "tokasaurus")
KINDS += tuple(
    _cartridges(name, _other(name, f"of_{name}{known.suffix}"), name, forged={known.suffix: _BYTES})
    for name, known in FORMATS.items()
    if known.reads and name not in _ASKED_FORMATS
)
