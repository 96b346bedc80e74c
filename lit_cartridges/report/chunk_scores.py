"""How well a cartridge gives the recorded answers, conversation by conversation: its loss over the corpus's chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lit_cartridges.attention import reads_prefixes
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.asked import AskedQuestion
from lit_cartridges.evals.evaluate import answer_log_likelihoods
from lit_cartridges.evals.systems import of_cartridge
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.files.content import parse_json, record
from lit_cartridges.models import hub_options, load_model, load_tokenizer
from lit_cartridges.models.base_weights import with_recorded
from lit_cartridges.runs.atomic_files import write_atomically

SCORES = "chunk_scores.json"
_BATCH = 16
_WIDEST = 1 << 40  # tokens; what a file claims beyond is no place in a corpus


@dataclass(frozen=True, kw_only=True)
class ChunkScore:
    """One conversation's chunk, and the negative log-likelihood of its answers in nats per token."""

    start_token: int
    num_tokens: int
    loss: float


def spread(things: Sequence[Any], count: int) -> list[Any]:
    """``count`` of them at even distances, or all."""
    return [things[i * len(things) // count] for i in range(count)] if len(things) > count else list(things)


def place_of(conversation: Conversation) -> tuple[int, int] | None:
    """First token and length of the chunk that it is about, where it says so."""
    start, tokens = (conversation.metadata.get(f"chunk_{name}") for name in ("start_token", "num_tokens"))
    if conversation.type == "off_corpus" or not isinstance(start, int | float):
        return None
    if not isinstance(tokens, int | float) or not (0 <= start < _WIDEST and 1 <= tokens < _WIDEST):
        return None
    return int(start), int(tokens)


@torch.no_grad()
def score_chunks(
    model: PreTrainedModel,
    renderer: ChatRenderer,
    cartridge: Cartridge,
    conversations: Sequence[Conversation],
) -> list[ChunkScore]:
    """The scores of those conversations that say which chunk they are about.

    Args:
        model: frozen, that reads the cartridge.
        renderer: `ChatRenderer` with the template that the run used.
    """
    system = of_cartridge("cartridge", cartridge, model)
    placed = [(place, one) for one in conversations if (place := place_of(one)) is not None]
    asked = []
    for index, (_, conversation) in enumerate(placed):
        ids, spans = renderer.conversation_ids(conversation.messages)
        for span in spans:
            if span.stop > span.start:
                asked.append(AskedQuestion(index, ids[: span.start].tolist(), ids[span].tolist()))
    lost: dict[int, list[torch.Tensor]] = {}
    with reads_prefixes(model):
        for start in range(0, len(asked), _BATCH):
            batch = asked[start : start + _BATCH]
            for one, likelihoods in zip(batch, answer_log_likelihoods(model, system, batch), strict=True):
                lost.setdefault(one.index, []).append(-likelihoods)
    return [
        ChunkScore(start_token=start, num_tokens=tokens, loss=torch.cat(lost[index]).mean().item())
        for index, ((start, tokens), _) in enumerate(placed)
        if index in lost
    ]


def score_run(folder: Path, conversations: Sequence[Conversation], settings: Mapping[str, str]) -> None:
    """Load the model that the run's cartridge names, score the conversations, and keep the scores in the folder.

    Args:
        settings: the run's, of which the chat's template is taken.

    Raises:
        ValueError: the cartridge names no model, or that cannot be loaded.
    """
    cartridge = Cartridge.from_pretrained(folder / "cartridge")
    name, options = with_recorded([cartridge.provenance], None, {})
    if name is None:
        raise EvalError(f"{folder}: its cartridge names no model to score it with; leave --score out")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    renderer = ChatRenderer(
        load_tokenizer(name, **hub_options(options)),
        system_template=settings.get("data.system_template", "{chunk}"),
        enable_thinking=settings.get("data.enable_thinking") == "True",
    )
    model = load_model(name, device=device, **options)
    write_scores(folder, score_chunks(model, renderer, cartridge, conversations))


def write_scores(folder: Path, scores: Sequence[ChunkScore]) -> None:
    """Keep them beside the run."""
    write_atomically(folder / SCORES, (json.dumps([asdict(one) for one in scores]) + "\n").encode())


def read_scores(folder: Path) -> list[ChunkScore]:
    """Those of `write_scores`, if there are any.

    Raises:
        ValueError: the file holds something else.
    """
    file = folder / SCORES
    if not file.is_file():
        return []
    known = parse_json(file.read_bytes())
    if not isinstance(known, list):
        raise ValueError("it is no list")
    return [record(ChunkScore, one, "score") for one in known]
