"""Requests that are about no corpus, written by the model itself, so that a router needs no other data."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch

from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.generation import generate, left_padded, pad_token_id
from lit_cartridges.models.readable import unwrapped
from lit_cartridges.routing.router import RouterError
from lit_cartridges.runs.steady_bar import SteadyBar

_WANTED = (
    "asks how something works",
    "asks for advice",
    "asks for a short piece of writing",
    "asks what a word or an idea means",
    "asks for a comparison of two things",
    "asks for a list of suggestions",
    "asks to correct or translate a sentence",
    "asks for the steps to do something",
    "asks a question of general knowledge",
    "asks for help with a small calculation",
)
_ABOUT = (
    *("cooking", "gardening", "astronomy", "programming in Python", "the history of Rome", "music theory"),
    *(
        "a job interview",
        "learning a language",
        "a birthday party",
        "the weather",
        "personal finance",
        "physics",
    ),
    *(
        "a holiday by the sea",
        "sleep",
        "chess",
        "poetry",
        "bicycles",
        "statistics",
        "pets",
        "cleaning a house",
    ),
    *(
        "chemistry at school",
        "a wedding speech",
        "the human heart",
        "spreadsheets",
        "mountains",
        "philosophy",
    ),
    *("football", "paintings", "emails at work", "toys for children", "electric cars", "geometry"),
    *("coffee", "running", "film", "databases", "insects", "architecture", "grammar", "rivers"),
)
_BATCH_ROWS, _ROUNDS, _MOST_TOKENS = 32, 4, 48


@torch.no_grad()
def general_requests(
    model: Any, renderer: ChatRenderer, count: int, *, seed: int = 0, progress: bool = False
) -> list[str]:
    """``count`` of them, none twice, sampled at temperature 1; ``seed`` decides them.

    Raises:
        RouterError: the model writes too few that differ.
    """
    model = unwrapped(model)
    draws = torch.Generator().manual_seed(seed)
    tasks = list(product(_WANTED, _ABOUT))
    stops = list(renderer.stop_token_ids(model.generation_config))
    found: dict[str, None] = {}
    devices = [model.device] if model.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        SteadyBar(total=count, desc="general requests", disable=not progress) as bar,
    ):
        torch.manual_seed(seed)
        for _ in range(_ROUNDS * -(-count // _BATCH_ROWS)):
            drawn = torch.randint(len(tasks), (_BATCH_ROWS,), generator=draws).tolist()
            rows = [renderer.bare_prompt_ids([user(_prompt(*tasks[i]))]) for i in drawn]
            ids, mask = left_padded(rows, pad_token_id(stops), model.device)
            out = generate(
                model,
                None,
                ids,
                mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=_MOST_TOKENS,
                eos_token_id=stops,
                pad_token_id=pad_token_id(stops),
            )
            texts = [renderer.text(row[ids.shape[1] :].cpu().numpy()) for row in out]
            found |= dict.fromkeys(text for text in texts if text)
            bar.update(min(count, len(found)) - bar.n)
            if len(found) >= count:
                return list(found)[:count]
    raise RouterError(
        f"the model wrote {len(found)} general requests that differ, of {count}; give a file of some with --negatives"
    )


def _prompt(wanted: str, about: str) -> str:
    return (
        'People sent these messages to an assistant: "How long does an egg have to boil?", "Translate good morning into '
        f'French.", "Write four lines about rain." Write another message that {wanted}. Its subject is {about}. Reply with '
        "that message only."
    )
