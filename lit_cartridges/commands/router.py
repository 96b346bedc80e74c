"""``lit-cartridges router``: makes a cartridge's router, and measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jsonargparse.typing import SecretStr

from lit_cartridges.errors import SettingError
from lit_cartridges.settings import (
    Count,
    DeviceName,
    DTypeName,
    Existing,
    OpenShare,
    PositiveShare,
    ReadFile,
    ReadPath,
    Seed,
    checked,
)
from lit_cartridges.settings.model_checks import DeviceMap, QuantizationConfig
from lit_cartridges.terminal import printable_line

RunFolder = Annotated[Path, Existing("folder")]


@checked
def router_command(
    folder: RunFolder,
    *,
    questions: ReadPath | None = None,
    negatives: ReadPath | None = None,
    on_corpus: list[ReadFile] | None = None,
    off_corpus: list[ReadFile] | None = None,
    alpha: OpenShare = 0.05,
    nearest: Count = 10,
    depth: PositiveShare = 0.5,
    num_questions: Count = 2000,
    num_negatives: Count = 400,
    seed: Seed = 0,
    model: str | None = None,
    dtype: DTypeName | None = None,
    device: DeviceName = "auto",
    revision: str | None = None,
    token: SecretStr | str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    quantization_config: QuantizationConfig | None = None,
) -> None:
    """Make a router, by which chat and serve answer what is not about the corpus without the cartridge.

    It is written beside the cartridge (router.safetensors). What it does with questions that it was not made with is printed.

    Args:
        folder: of a run, or of a cartridge.
        questions: about the corpus: a recording, by default the run's, or such a file as negatives are.
        negatives: requests that are not about the corpus: a text file with one a line, .jsonl or .json with ``question``,
            ``prompt`` or ``messages``, or a recording. By default the model writes some of general subjects.
        on_corpus: further such files of questions about the corpus, to measure with.
        off_corpus: the same, of questions that are not about it.
        alpha: the share of requests like the negatives that may be answered with the cartridge.
        nearest: recorded questions that a question is compared with.
        depth: the layer whose hidden states are compared, as a share of all.
        num_questions: recorded questions to store at most.
        num_negatives: requests to use at most, or to have written; of both a fifth is kept to measure with.
        seed: of what is drawn and written.
        model: the frozen model; by default the one that the cartridge names.
        dtype: of the model: "auto" (as in its files), "float32", "bfloat16", "float16"; by default the cartridge's.
        device: "auto", "cpu", "cuda", "cuda:1", …
        revision: branch, tag or commit of the model on the Hub; by default the cartridge's.
        token: for private and gated models of the Hub, where HF_TOKEN does not hold it.
        trust_remote_code: run code that comes with the model, if it needs that.
        device_map: "auto", or a device per module, which accelerate then spreads; ``device`` is not used then.
        quantization_config: as transformers takes it: ``{load_in_4bit: true}``; by default the cartridge's.
    """
    from lit_cartridges.cartridge import Cartridge
    from lit_cartridges.cartridge_files import TENSORS
    from lit_cartridges.cartridge_files.facts import trained_prompts
    from lit_cartridges.conversations.renderer import ChatRenderer
    from lit_cartridges.models import hub_options, load_model, load_tokenizer
    from lit_cartridges.models.base_weights import plain_token, with_recorded
    from lit_cartridges.routing import save_router
    from lit_cartridges.routing.embedding import QuestionEmbedder
    from lit_cartridges.routing.making import RouterSettings, make_router
    from lit_cartridges.routing.measuring import measure, text_table
    from lit_cartridges.routing.question_texts import read_questions, recorded_questions
    from lit_cartridges.routing.router_file import owner_of

    settings = RouterSettings(
        alpha=alpha,
        nearest=nearest,
        depth=depth,
        num_questions=num_questions,
        num_negatives=num_negatives,
        seed=seed,
    )
    place = folder if (folder / TENSORS).is_file() else folder / "cartridge"
    if not (place / TENSORS).is_file():
        raise SettingError(f"holds no {TENSORS}, nor does its cartridge/", folder=str(folder))
    cartridge, owner = Cartridge.from_pretrained(place), owner_of(place)
    recording = questions or place.parent / "recording"
    if not recording.exists():
        raise SettingError("has no recording beside it; give --questions", folder=str(folder))
    if recording.is_dir() or recording.suffix == ".parquet":
        asked = recorded_questions(recording, corpus_sha256=owner.corpus_sha256)
    else:
        asked = read_questions(recording)
    others = None if negatives is None else read_questions(negatives)
    if others is not None:
        settings.require_enough(len(others), negatives=str(negatives))
    sets = {
        str(path): (on, read_questions(path))
        for on, paths in ((True, on_corpus), (False, off_corpus))
        for path in paths or ()
    }
    given = {
        "dtype": dtype,
        "revision": revision,
        "token": plain_token(token),
        "trust_remote_code": trust_remote_code,
        "device_map": device_map,
        "quantization_config": quantization_config,
    }
    name, options = with_recorded([cartridge.provenance], model, given)
    if not name:
        raise SettingError("does not name its model; give --model", folder=str(folder))
    setting = "--model" if model else "base_model of the cartridge"
    tokenizer = load_tokenizer(name, setting=setting, **hub_options(options))
    frozen = load_model(name, device=device, setting=setting, **options)
    cartridge.require_fit(frozen)
    renderer = ChatRenderer(tokenizer, **trained_prompts(cartridge.provenance))
    embedder = QuestionEmbedder(frozen, renderer)
    negatives_from = "" if negatives is None else negatives.name
    made = make_router(
        embedder, asked, others, settings, owner=owner, negatives_from=negatives_from, progress=True
    )
    held_out = {
        "held-out questions of the recording": (True, made.questions.held_out),
        "held-out negatives": (False, made.negatives.held_out),
    }
    rows = measure(made.router, embedder, cartridge, made.negatives.used, held_out | sets)
    print(text_table(rows))
    router = made.router
    print(
        printable_line(
            f"{save_router(router, place)}: {len(router.questions):,} questions, layer {router.layer} of {router.num_layers}, "
            f"threshold {router.threshold:.4f} of {len(router.negatives):,} negatives at alpha={router.alpha:g}"
        )
    )
