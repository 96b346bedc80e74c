"""``lit-cartridges evaluate``: cartridges and baselines on a task, as a table and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jsonargparse.typing import SecretStr

import lit_cartridges.evals  # noqa: F401  tasks can then be named without their module
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files.facts import with_scores
from lit_cartridges.cascade.options import DEFAULT_CASCADE, CascadeOptions
from lit_cartridges.commands.measuring import left_out_where_too_long, require_sizes
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.corpora.open_corpus import Corpus, open_corpus
from lit_cartridges.errors import SettingError, called
from lit_cartridges.evals.asked import reserve_tokens
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.off_corpus import ABSTENTIONS, OffCorpus, require_abstentions
from lit_cartridges.evals.result import EvalResult
from lit_cartridges.evals.result_file import Evaluation
from lit_cartridges.evals.systems import (
    CARTRIDGE,
    NO_CONTEXT,
    AskedKind,
    Sizes,
    System,
    SystemInput,
    TokenIds,
    chosen,
    names_of,
    of_cartridge,
    require_room,
)
from lit_cartridges.evals.table import text_table
from lit_cartridges.evals.tasks.task import EvalError, EvalTask
from lit_cartridges.models import hub_options, load_config, load_model, load_tokenizer
from lit_cartridges.models.base_weights import other_weights, plain_token, with_recorded
from lit_cartridges.settings import (
    ChunkTemplate,
    Count,
    DeviceName,
    DTypeName,
    PositiveInt,
    ReadCorpus,
    Seed,
    Temperature,
    WriteJsonName,
    checked,
)
from lit_cartridges.settings.model_checks import DeviceMap, QuantizationConfig
from lit_cartridges.terminal import printable_line

COMPOSED = "composed"


@checked
def evaluate_command(
    *,
    task: EvalTask,
    cartridges: Sequence[str] = (),
    model: str | None = None,
    corpus: Corpus | ReadCorpus | None = None,
    systems: Sequence[str] = (),
    off_corpus: list[EvalTask] | None = None,
    abstentions: Sequence[str] = ABSTENTIONS,
    compose: bool = False,
    out: WriteJsonName | None = None,
    on_card: bool = False,
    num_questions: PositiveInt | None = None,
    batch_size: Count = 64,
    max_new_tokens: PositiveInt = 64,
    temperature: Temperature = 0.0,
    samples: Count = 1,
    seed: Seed = 0,
    max_context_tokens: PositiveInt | None = None,
    cascade: CascadeOptions = DEFAULT_CASCADE,
    system_template: ChunkTemplate = "{chunk}",
    enable_thinking: bool = False,
    dtype: DTypeName | None = None,
    device: DeviceName = "auto",
    revision: str | None = None,
    token: SecretStr | str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    quantization_config: QuantizationConfig | None = None,
    progress: bool = True,
) -> list[EvalResult]:
    """Score cartridges and baselines on a task.

    Args:
        task: the questions.
        cartridges: folders or Hub repositories; NAME=FOLDER sets the name in the table.
        model: the frozen model by its Hub id, folder, or ``package:NAME/FOLDER``; by default the one that the first
            cartridge names.
        corpus: the documents, which icl and truncated_icl put into the context, and which cascade and streaming_llm
            stream through a cache of fixed size: a path or a reader.
        systems: baselines beside the cartridges, of "icl", "truncated_icl", "no_context", "cascade", "streaming_llm".
        off_corpus: tasks that are not about the corpus, for a second table: of each system, and of the model alone, the
            accuracy, the share of replies that abstain, and how far it is from the model alone.
        abstentions: phrases of which a reply that abstains has one.
        compose: also ask all cartridges side by side.
        out: JSON file for the figures and every reply.
        on_card: write the scores into the cartridges' folders as well, for their cards.
        num_questions: ask so many, at even distances; all by default.
        batch_size: questions answered together.
        max_new_tokens: length at which a reply is cut.
        temperature: of replies; 0 takes the likeliest token.
        samples: replies per question, at a temperature above 0; a question then counts as its share of right ones.
        seed: of sampled replies.
        max_context_tokens: positions that icl and truncated_icl may use, if fewer than the model has.
        cascade: the size of the cache of cascade, and of streaming_llm, which has one sub-cache in any case.
        system_template: the system message in which the baselines show the corpus, as ``{chunk}``.
        enable_thinking: let models that can think do so.
        dtype: of the model: "auto" (as in its files), "float32", "bfloat16", "float16"; by default what the cartridge that
            names it was made with.
        device: "auto", "cpu", "cuda", "cuda:1", …
        revision: branch, tag or commit of the model on the Hub; by default the cartridge's, if that names the model.
        token: for private and gated models of the Hub, where HF_TOKEN does not hold it.
        trust_remote_code: run code that comes with the model.
        device_map: "auto", or a device per module, which accelerate then spreads; ``device`` is not used then.
        quantization_config: as transformers takes it: ``{load_in_4bit: true}``, likewise.
        progress: show a bar.

    Returns:
        One result per system, in the table's order. A baseline that does not fit the context is left out with a line.

    Raises:
        ValueError: settings that do not go together, a path without a cartridge or with one for another model, a task
            without questions: all before the model is loaded.
    """
    baselines = chosen(systems, AskedKind) if systems else []
    if not systems and not cartridges:
        raise EvalError(
            "cartridges=[], systems=[]: nothing to evaluate: give cartridges, or systems such as icl"
        )
    if corpus is None and (needing := [kind.name for kind in baselines if kind.needs_corpus]):
        raise EvalError(f"systems={list(systems)}: {needing[0]} needs the corpus; set corpus")
    if compose and len(cartridges) < 2:
        raise EvalError(f"compose=true needs at least 2 cartridges, got {len(cartridges)}")
    if samples > 1 and not temperature:
        raise SettingError("samples above 1 need a temperature above 0", samples=samples, temperature=0)
    folders = _folders(cartridges)
    if on_card and not all(path.is_dir() for path in folders.values()):
        raise EvalError(f"on_card=true needs folders, got cartridges={list(cartridges)}: download them first")
    require_abstentions(abstentions)
    questions = task.pick(num_questions)
    loaded = _load_cartridges(cartridges)
    given = {
        "dtype": dtype,
        "revision": revision,
        "token": plain_token(token),
        "trust_remote_code": trust_remote_code,
        "device_map": device_map,
        "quantization_config": quantization_config,
    }
    name, settings = with_recorded([c.provenance for c in loaded.values()], model, given)
    if name is None:
        raise EvalError("no cartridge names its model; set model")
    setting = "model" if model else "base_model of the cartridge"
    hub = hub_options(settings) | {"setting": setting}
    config = load_config(name, **hub)
    for title, cartridge in loaded.items():
        cartridge.require_made_for(config, f"model={name}", called=f"cartridges: {title}")
    tokenizer = load_tokenizer(name, **hub)
    for one in (task, *(off_corpus or ())):
        one.require_tokenizer(tokenizer, vocab_size=config.get_text_config().vocab_size)
    renderer = ChatRenderer(tokenizer, system_template=system_template, enable_thinking=enable_thinking)
    corpus_ids: TokenIds = []
    corpus_name = ""
    if corpus is not None:
        documents = open_corpus(corpus)
        corpus_name = documents.shown_name
        with called("corpus", getattr(documents, "path", "")):
            corpus_ids = documents.token_ids(tokenizer)
    reserve = max(
        reserve_tokens(renderer, other, max_new_tokens)
        for other in (questions, *(one.pick(num_questions) for one in off_corpus or ()))
    )
    if compose:
        loaded[COMPOSED] = Cartridge.compose(list(loaded.values()))
    for title, cartridge in loaded.items():
        require_room(config, title, cartridge.num_tokens, reserve)
    sizes = Sizes(cascade=cascade, reserve_tokens=reserve, max_context_tokens=max_context_tokens)
    require_sizes(baselines, config, sizes)
    frozen = load_model(name, device=device, setting=setting, **settings)
    for title, cartridge in loaded.items():
        if difference := other_weights(cartridge, frozen):
            print(f"warning: {title}: {difference}", file=sys.stderr)

    ask = partial(
        evaluate,
        frozen,
        renderer,
        task=task,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        num_questions=num_questions,
        temperature=temperature,
        samples=samples,
        seed=seed,
        progress=progress,
    )
    results: list[EvalResult] = []
    others = [
        OffCorpus(
            *(frozen, renderer, other),
            abstentions=abstentions,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            num_questions=num_questions,
            progress=progress,
        )
        for other in off_corpus or ()
    ]
    beside = [other.of(other.bare) for other in others]

    def measure(system: System) -> None:
        results.append(ask(system))
        if system.name != NO_CONTEXT:
            beside.extend(other.of(system) for other in others)

    for title, cartridge in loaded.items():
        measure(of_cartridge(title, cartridge, frozen))
    readable = SystemInput(model=frozen, renderer=renderer, corpus_ids=corpus_ids, sizes=sizes)
    for kind in baselines:
        with left_out_where_too_long():
            measure(kind.read(readable))  # one at a time, so that one prefix is in memory
    if results:
        print(text_table(results))
    for other in others:
        name = other.task.describe()
        print(f"\noff the corpus: {printable_line(name)}\n")
        print(text_table([one for one in beside if one.task == name]))
    if out is not None:
        Evaluation(
            task=task.describe(),
            results=tuple(results),
            model=name,
            corpus=corpus_name,
            corpus_tokens=len(corpus_ids) or None,
            off_corpus=tuple(beside),
        ).write(Path(out))
    for title, folder in folders.items() if on_card else ():
        _write_card(loaded[title], folder, title, results)
    return results


def _write_card(cartridge: Cartridge, folder: Path, title: str, results: Sequence[EvalResult]) -> None:
    """Its own score, as "cartridge", and those of the baselines."""
    own = [result.score(CARTRIDGE) for result in results if result.system == title]
    beside = [result.score() for result in results if result.system in names_of(AskedKind)]
    cartridge.provenance = with_scores(cartridge.provenance, [*own, *beside])
    cartridge.save_pretrained(folder)


def _folders(given: Sequence[str]) -> dict[str, Path]:
    """By the name in the table."""
    named = (text.rpartition("=") for text in given)
    return {name if equals else path: Path(path) for name, equals, path in named}


def _load_cartridges(given: Sequence[str]) -> dict[str, Cartridge]:
    loaded: dict[str, Cartridge] = {}
    for text in given:
        name, equals, path = text.rpartition("=")
        name = name if equals else path
        if name in loaded or name in (*names_of(AskedKind), COMPOSED):
            raise EvalError(
                f"cartridges={list(given)}: the name {name!r} is taken; write NAME={path} with another one"
            )
        with called("cartridges", path):
            loaded[name] = Cartridge.from_pretrained(path)
    return loaded
