"""The other side of ``kvpress_peer``: runs in kvpress's environment, which has neither this package nor its transformers.

``python _kvpress_side.py QUESTIONS REPLIES``: reads token ids from the one JSON file, and adds a line to the other for each
context, press and ratio that it does not hold yet.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import kvpress
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
from transformers.utils import logging


def main(questions: Path, replies: Path) -> None:
    given = json.loads(questions.read_text())
    logging.disable_progress_bar()
    torch.set_num_threads(given["threads"])
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    pipe = pipeline("kv-press-text-generation", model=model, tokenizer=tokenizer, device=given["device"])
    known = [json.loads(line) for line in replies.read_text().splitlines()] if replies.exists() else []
    done = {(one["context"], one["press"], one["ratio"]) for one in known}
    runs = [("whole", 0.0), *((name, ratio) for ratio in given["ratios"] for name in given["presses"])]
    for number, context in enumerate(given["contexts"]):
        for name, ratio in runs:
            if (number, name, ratio) in done:
                continue
            press = None if name == "whole" else getattr(kvpress, name)(compression_ratio=ratio)
            said, seconds = asked(pipe, context, press)
            line = {"context": number, "press": name, "ratio": ratio, "replies": said, "seconds": seconds}
            with replies.open("a") as file:
                file.write(json.dumps(line) + "\n")


@torch.no_grad()
def asked(pipe: Any, context: dict[str, Any], press: Any) -> tuple[list[str], float]:
    """The replies, and the seconds until the first question was read: those of reading and pressing the context."""
    begun: list[float] = []
    answer = type(pipe).generate_answer

    def timed(*args: Any, **options: Any) -> str:
        begun.append(time.perf_counter())
        return str(answer(pipe, *args, **options))

    pipe.generate_answer = timed
    ids = {
        "context_ids": torch.tensor([context["context_ids"]]),
        "questions_ids": [torch.tensor([one]) for one in context["questions"]],
    }
    start = time.perf_counter()
    said = pipe._forward(ids, max_new_tokens=context["max_new_tokens"], press=press)
    return said, begun[0] - start


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
