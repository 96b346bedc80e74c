"""The page: one file that asks for nothing else, for a phone and a desk, by day and by night.

A Content-Security-Policy lets nothing run but plotly and our own script, by their digests, and nothing be fetched.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from plotly.offline import get_plotlyjs

from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.evals.table import bytes_text
from lit_cartridges.report import markup
from lit_cartridges.report.chunk_scores import spread
from lit_cartridges.report.corpus_parts import CorpusPart
from lit_cartridges.report.facts import Row, RunFacts
from lit_cartridges.report.figures import accuracy_against_compression, over_corpus, over_steps, shades
from lit_cartridges.report.replies import Answered, reply_tables
from lit_cartridges.runs.atomic_files import write_atomically

_BASELINES = ("icl", "truncated_icl", "no_context", "cascade", "streaming_llm")
_SAMPLES = 12
HEADER = (
    *("system", "about", "accuracy ± s.e.", "compression", "positions", "bytes", "log-lik./token"),
    *("s/answer", "training s", "questions"),
)


def write_page(facts: Sequence[RunFacts], path: Path, *, title: str, intro: str = "") -> None:
    """Write the page.

    Args:
        facts: one or more runs; several are laid beside each other.
        intro: a sentence under the title.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(facts, title=title, intro=intro).encode("utf-8", errors="replace"))


def page(facts: Sequence[RunFacts], *, title: str, intro: str = "") -> str:
    """The HTML; see `write_page`."""
    rows = named_rows(facts)
    alone = facts[0] if len(facts) == 1 else None
    body = [
        f"<h1>{markup.text(title)}</h1>",
        f'<p class="soft">{markup.text(intro)}</p>' if intro else "",
        markup.tiles(alone.headline) if alone else "",
        markup.section("Results", markup.table(*figures(rows)) if rows else ""),
        markup.section("Accuracy against compression", markup.plot(accuracy_against_compression(rows))),
        markup.section("Training", *_training(facts)),
        markup.section("Over the corpus", *(_corpus(one, only=bool(alone)) for one in facts)),
        markup.section("Conversations", *(_conversations(one, only=bool(alone)) for one in facts)),
        markup.section("Replies", reply_tables(_answered(facts))),
        markup.section("How it was made", *(_made(one, only=bool(alone)) for one in facts)),
    ]
    return _document(title, "".join(body))


def named_rows(facts: Sequence[RunFacts]) -> list[tuple[str, Row]]:
    """All rows by their names in the table; a baseline that several runs have measured alike stands once."""
    rows: dict[tuple[str, str, int, float], tuple[str, Row]] = {}
    for one in facts:
        for row in one.rows:
            name = _name(one, row.system, several=len(facts) > 1)
            rows.setdefault((name, row.about, row.num_kv_tokens, row.accuracy), (name, row))
    return list(rows.values())


def figures(rows: Sequence[tuple[str, Row]]) -> tuple[list[str], list[list[str]]]:
    """The table's header and cells, without columns of which no row has anything."""
    lines = [_cells(name, row) for name, row in rows]
    kept = [place for place in range(len(HEADER)) if any(line[place] for line in lines)]
    return [HEADER[place] for place in kept], [[line[place] for place in kept] for line in lines]


def _cells(name: str, row: Row) -> list[str]:

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    error = "" if row.accuracy_standard_error is None else f" ± {row.accuracy_standard_error:.3f}"
    return [
        name,
        row.about,
        f"{row.accuracy:.3f}{error}",
        "" if row.compression is None else f"{row.compression:.1f}×",
        f"{row.num_kv_tokens:,}",
        "" if row.kv_bytes is None else bytes_text(row.kv_bytes),
        number(row.answer_log_likelihood, ".3f"),
        number(row.seconds_per_answer, ".4f"),
        number(row.training_s, ",.0f"),
        number(row.num_questions, ",d"),
    ]


def _name(run: RunFacts, system: str, *, several: bool) -> str:
    """The run's name stands for its cartridge where there are several."""
    if not several or system in _BASELINES:
        return system
    return run.name if system == "cartridge" else system


def _training(facts: Sequence[RunFacts]) -> Iterator[str]:
    several = len(facts) > 1
    losses = [(run, curve) for run in facts for curve in run.losses]
    reached = [(run, curve) for run in facts for curve in run.accuracies]
    if several:  # the baselines' lines belong to each of them
        reached = [(run, curve) for run, curve in reached if curve.name not in _BASELINES]
    for curves, title in ((losses, "loss"), (reached, "accuracy")):
        alike = len({curve.name for _, curve in curves}) == 1
        named = [
            (curve.name if not several else run.name if alike else f"{run.name}: {curve.name}", curve)
            for run, curve in curves
        ]
        yield markup.plot(over_steps(named, title=title, share=title == "accuracy"))


def _corpus(run: RunFacts, *, only: bool) -> str:
    if not run.parts:
        return ""
    scored = any(part.loss is not None for part in run.parts)
    figure, shade_of = markup.plot(over_corpus(run.parts)), shades(run.parts)
    told = (
        "How much the cartridge loses on recorded answers about each part of the corpus, which it was trained on: the lower, "
        "the better it knows it."
        if scored
        else "How many recorded conversations are about each part of the corpus. Its scores are made by --score N."
    )
    text = markup.folded("The text, part by part", "".join(_part(part, shade_of) for part in run.parts))
    content = f'<p class="soft">{told}</p>{figure}{text}'
    return content if only else markup.folded(run.name, content)


def _part(part: CorpusPart, shade_of: Callable[[CorpusPart], str]) -> str:
    loss = "" if part.loss is None else f"{part.loss:.3f} nats per token, "
    where = f"{part.start_token:,}–{part.start_token + part.num_tokens - 1:,}"
    told = f"{loss}{part.num_conversations:,} conversations"
    return f'<div class="part" style="border-color: {shade_of(part)}"><b>{where}: {told}</b> {markup.text(part.text)}</div>'


def _conversations(run: RunFacts, *, only: bool) -> str:
    if not run.conversations:
        return ""
    samples = spread(run.conversations, _SAMPLES)
    content = "".join(_conversation(one) for one in samples)
    told = f"{len(samples)} of the {len(run.conversations):,} conversations that were read of the recording."
    content = f'<p class="soft">{told}</p>{content}'
    return content if only else markup.folded(run.name, content)


def _conversation(one: Conversation) -> str:
    known = [str(one.metadata[name]) for name in ("seed_prompt",) if name in one.metadata]
    place = one.metadata.get("chunk_start_token")
    known += [f"from token {place:,}"] if isinstance(place, int | float) else []
    said = "".join(
        f'<div class="said"><b>{markup.text(turn.role)}</b>{markup.text(turn.content)}</div>'
        for turn in one.messages
    )
    chunk = markup.folded(
        "what the teacher had read", f'<div class="said">{markup.text(one.system_prompt)}</div>'
    )
    title = f"<h3>{markup.text(', '.join(known) or one.type)}</h3>"
    return title + said + (chunk if one.system_prompt else "")


def _answered(facts: Sequence[RunFacts]) -> Iterator[Answered]:
    held = [(run, one, result) for run in facts for one in run.evaluations for result in one.results]
    named = any(result.system == "cartridge" for _, _, result in held)
    for run, one, result in held:
        trained = result.system == "cartridge" if named else result.system not in _BASELINES
        name = _name(run, result.system, several=len(facts) > 1)
        yield Answered(one.corpus or one.task, name, trained, result.replies)


def _made(run: RunFacts, *, only: bool) -> str:
    told = "" if only else markup.tiles(run.headline)
    settings = (
        markup.table(("setting", "value"), list(run.settings.items()), kind="wide") if run.settings else ""
    )
    left_out = "".join(f"<p>Left out: {markup.text(line)}</p>" for line in run.left_out)
    title = "All settings" if only else run.name
    return left_out + markup.folded(title, told + settings)


def _document(title: str, body: str) -> str:
    own = files(__package__)
    style = own.joinpath("page.css").read_text(encoding="utf-8")
    scripts = [_lines(get_plotlyjs()), _lines(own.joinpath("page.js").read_text(encoding="utf-8"))]
    allowed = " ".join(f"'sha256-{b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{markup.text(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def _lines(script: str) -> str:
    """Its lines as the browser will read them, whose digest counts."""
    return script.replace("\r\n", "\n").replace("\r", "\n")
