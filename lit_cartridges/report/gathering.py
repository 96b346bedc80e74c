"""Facts read from what commands leave behind. Nothing is loaded but files of ours, and what cannot be read is said.

| given | read |
| --- | --- |
| a run's folder | ``cartridge/``, ``logs/``, ``config.yaml``, ``evaluations/``, ``chunk_scores.json``, the recording |
| a folder of runs | each of them, and its own ``evaluations/`` |
| a folder of ``compare-inits`` | ``comparison.json`` |
| a JSON file | an evaluation |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lit_cartridges.cartridge_files import DESCRIPTION
from lit_cartridges.cartridge_files.description import Description
from lit_cartridges.cartridge_files.facts import CartridgeFacts
from lit_cartridges.conversations.conversation import Conversation, ConversationError
from lit_cartridges.conversations.parquet import conversation_files, read_conversations
from lit_cartridges.conversations.tokenizer_check import RecordingError
from lit_cartridges.evals.result_file import Evaluation, EvaluationFileError, evaluations
from lit_cartridges.evals.table import bytes_text
from lit_cartridges.files.content import one_line, parse_json
from lit_cartridges.report.chunk_scores import read_scores, spread
from lit_cartridges.report.comparisons import COMPARISON, gather_comparison
from lit_cartridges.report.corpus_parts import corpus_parts
from lit_cartridges.report.facts import Curve, ReportError, Row, RunFacts
from lit_cartridges.runs.run_metrics import read_metrics

_RUN_PARTS = ("config.yaml", "logs", "cartridge")
_MOST_FILES = 64  # of a recording, at even distances
_ACCURACY = re.compile(r"(?:.+/)?([^/]+)/accuracy")


def gather(path: Path, *, recording: Path | None = None) -> list[RunFacts]:
    """The facts of one argument of ``lit-cartridges report``; see the module.

    Args:
        recording: see `gather_run`.

    Raises:
        ReportError: there is nothing of ours.
    """
    if path.is_file():
        return [gather_evaluation(path)]
    if (path / COMPARISON).is_file():
        return gather_comparison(path)
    runs = run_folders(path)
    if not runs:
        raise ReportError(
            f"{str(path)!r} holds no run: give the folder of a run (trainer.default_root_dir), of compare-inits, one with "
            "such folders in it, or the JSON of evaluate"
        )
    found = [gather_run(folder, recording=recording) for folder in runs]
    return found if runs == [path] else found + [gather_evaluation(file) for file in evaluations(path)]


def run_folders(path: Path) -> list[Path]:
    """The folder itself, where it is a run's; else those in it that are."""
    if is_run(path):
        return [path]
    return sorted(one for one in path.iterdir() if is_run(one)) if path.is_dir() else []


def is_run(path: Path) -> bool:
    """Whether it is the folder of one training."""
    return any((path / part).exists() for part in _RUN_PARTS)


def gather_evaluation(file: Path) -> RunFacts:
    """An evaluation by itself."""
    held = Evaluation.read(file)
    headline = {"base model": held.model, "corpus": held.corpus, "task": held.task}
    return RunFacts(
        name=file.stem,
        headline={label: value for label, value in headline.items() if value},
        rows=rows_of(held),
        evaluations=(held,),
    )


def gather_run(
    folder: Path,
    *,
    name: str = "",
    given: Sequence[Evaluation] | None = None,
    recording: Path | None = None,
    training_s: float | None = None,
) -> RunFacts:
    """A run's folder.

    Args:
        name: on the page; the folder's by default.
        given: what to show in place of the evaluations in the folder.
        recording: the conversations, where they are not in its folder ``recording``.
        training_s: what its rows say in place of its own seconds.
    """
    left_out: list[str] = []
    metrics = read_metrics(folder)
    settings, known = _settings(folder), _cartridge(folder, left_out)
    held = list(given) if given is not None else _evaluations(folder, left_out)
    took = training_s if training_s is not None else _seconds(metrics)
    rows = [row for one in held for row in rows_of(one, training_s=took)]
    conversations = _conversations(recording or folder / "recording", settings, left_out)
    scores = []
    try:
        scores = read_scores(folder)
    except ValueError as error:
        left_out.append(f"chunk_scores.json: {one_line(error)}")
    return RunFacts(
        name=name or folder.resolve().name,
        headline=_reached(rows) | _headline(known, settings, metrics),
        rows=rows,
        losses=_curves(metrics, {"train/loss": "training", "val/loss": "validation"}),
        accuracies=_curves(
            metrics, {n: m[1] for row in metrics for n in row if (m := _ACCURACY.fullmatch(n))}
        ),
        evaluations=held,
        parts=corpus_parts(
            conversations,
            scores,
            corpus_tokens=known.corpus_tokens if known else None,
            corpus_sha256=known.corpus_sha256 if known else "",
            system_template=settings.get("data.system_template", "{chunk}"),
        ),
        conversations=conversations,
        settings=settings,
        left_out=left_out,
    )


def rows_of(held: Evaluation, *, training_s: float | None = None) -> list[Row]:
    """Its systems; ``training_s`` belongs to those that are trained."""
    whole = next((r.num_kv_tokens for r in held.results if r.system == "icl"), None)
    return [
        Row(
            system=result.system,
            about=held.corpus or held.task,
            num_kv_tokens=result.num_kv_tokens,
            kv_bytes=result.kv_bytes,
            corpus_tokens=held.corpus_tokens or whole,
            accuracy=result.accuracy,
            accuracy_standard_error=result.accuracy_standard_error,
            num_questions=result.num_questions,
            answer_log_likelihood=result.answer_log_likelihood,
            seconds_per_answer=result.seconds_per_answer,
            training_s=training_s if result.system == "cartridge" else None,
        )
        for result in sorted(held.results, key=lambda result: result.system != "cartridge")
    ]


def _evaluations(folder: Path, left_out: list[str]) -> list[Evaluation]:
    held = []
    for file in evaluations(folder):
        try:
            held.append(Evaluation.read(file))
        except EvaluationFileError as error:
            left_out.append(str(error))
    return held


def _cartridge(folder: Path, left_out: list[str]) -> CartridgeFacts | None:
    file = folder / "cartridge" / DESCRIPTION
    if not file.is_file():
        return None
    try:
        text = file.read_bytes()
        Description.parse(text)
        return CartridgeFacts.of(parse_json(text))
    except (OSError, ValueError) as error:
        left_out.append(f"{file}: {one_line(error)}")
        return None


def _settings(folder: Path) -> dict[str, str]:
    """What the loggers were told, which is resolved; else the config as it was typed."""
    files = sorted(folder.glob("logs/version_*/hparams.yaml"), key=lambda f: f.stat().st_mtime)
    for file in (*reversed(files), folder / "config.yaml"):
        try:
            known = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(known, dict):
            return {name: str(value) for name, value in _flat(known).items() if value is not None}
    return {}


def _flat(known: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in known.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _conversations(place: Path, settings: Mapping[str, str], left_out: list[str]) -> list[Conversation]:
    found: list[Conversation] = []
    if not place.exists():
        # What a file names is not followed.
        elsewhere = [
            settings[name] for name in ("data.source.path", "data.source.recording") if name in settings
        ]
        left_out += [f"the conversations in {one!r}; --recording shows them" for one in elsewhere]
        return found
    try:
        for file in spread(conversation_files(place), _MOST_FILES):
            if file.suffix == ".parquet":
                found += read_conversations(file)
    except (RecordingError, ConversationError) as error:
        left_out.append(one_line(error))
    return found


def _reached(rows: Sequence[Row]) -> dict[str, str]:
    """The accuracy of the cartridge, and of the corpus in the context."""
    reached = {row.system: row for row in reversed(rows)}
    names = {"cartridge": "accuracy", "icl": "accuracy of the corpus in the context"}
    return {label: f"{reached[name].accuracy:.3f}" for name, label in names.items() if name in reached}


def _headline(
    known: CartridgeFacts | None, settings: Mapping[str, str], metrics: Sequence[Mapping[str, float]]
) -> dict[str, str]:
    told: dict[str, str] = {}
    if known is not None:
        length = f"{known.corpus_tokens:,} tokens" if known.corpus_tokens else ""
        told["base model"] = known.base_model
        told["corpus"] = ", ".join(part for part in (known.corpus, length) if part)
        told["cartridge"] = f"{known.num_tokens:,} positions"
        told["compression"] = f"{known.compression:.1f}×" if known.compression else ""
        told["init strategy"] = known.init
        told["licence"] = known.license
        told["optimizer steps"] = f"{known.steps:,}"
        told["last loss"] = "" if known.loss is None else f"{known.loss:.4f}"
    told["objective"] = settings.get("model.objective", settings.get("model.objective.class_path", ""))
    last = {name: value for row in metrics for name, value in row.items()}
    for label, name in (("training", "time/training_s"), ("making conversations", "time/generating_s")):
        told[label] = f"{last[name]:,.0f} s" if name in last else ""
    told["peak memory"] = bytes_text(int(last["memory/peak_bytes"])) if "memory/peak_bytes" in last else ""
    return {label: value for label, value in told.items() if value}


def _seconds(metrics: Sequence[Mapping[str, float]]) -> float | None:
    """Of training and of making the conversations."""
    last = {name: value for row in metrics for name, value in row.items()}
    times = [last[name] for name in ("time/training_s", "time/generating_s") if name in last]
    return sum(times) if times else None


def _curves(metrics: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> list[Curve]:
    curves = []
    for name, shown in names.items():
        points = [(row["step"], row[name]) for row in metrics if name in row and "step" in row]
        error = name.replace("/accuracy", "/accuracy_standard_error")
        errors = [row.get(error, 0.0) for row in metrics if name in row] if error != name else None
        if points:
            steps, values = zip(*points, strict=True)
            curves.append(Curve(name=shown, steps=steps, values=values, errors=errors))
    return curves
