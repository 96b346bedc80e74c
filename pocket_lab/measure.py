"""What the pocket model can do, on held-out worlds: `python -m pocket_lab.measure [--model FOLDER]`."""

from __future__ import annotations

import math
import sys
import time
from json import dumps
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from lit_cartridges.command_line.ending import run_command
from lit_cartridges.command_line.functions import run_function
from lit_cartridges.evals.statistics import share_error
from lit_cartridges.pocket import SEED_PROMPTS, World, model_path
from lit_cartridges.pocket.questions import read
from lit_cartridges.pocket.tokenizer import words
from lit_cartridges.settings import Count, ReadModelFolder, WriteJsonName, checked
from pocket_lab.card import write_card
from pocket_lab.reader import Reader

LENGTHS = (150, 500, 1000, 1500, 2000)
"""Corpus lengths in tokens at which the model is measured."""
CHUNKS = (160, 500)
"""Chunk lengths in tokens at which self-study is measured: the middle of the recipe's, and a longer one."""
_TEMPERATURE = 0.8  # of the messages, as in recipes/pocket.yaml
_PER_CORPUS = 20
_FIRST_WORLD = 90_000


def load(folder: str | None = None) -> Reader:
    """The model of a folder (default: the bundled one), ready to reply."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = folder or str(model_path())
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False).eval()
    return Reader(model, AutoTokenizer.from_pretrained(path, trust_remote_code=False))


def icl_accuracy(
    reader: Reader, num_tokens: int, num_questions: int, with_text: bool = True
) -> dict[str, float]:
    """Share of held-out questions answered with exactly the right value, greedily; its standard error."""
    right, asked = 0, 0
    for index in range(math.ceil(num_questions / _PER_CORPUS)):
        world = World(_FIRST_WORLD + index, held_out=True)
        corpus = world.corpus(num_tokens)
        questions = world.questions(corpus, _PER_CORPUS)
        replies = reader.reply(
            corpus.text if with_text else None, [question.prompt for question in questions]
        )
        right += sum(question.is_right(reply) for question, reply in zip(questions, replies, strict=True))
        asked += len(questions)
    share = right / asked
    return {"accuracy": share, "standard_error": share_error(share, asked), "questions": asked}


@torch.inference_mode()
def perplexity(reader: Reader, num_tokens: int, num_corpora: int = 20) -> float:
    """Next-token perplexity of held-out corpora, read as the system's message."""
    losses = []
    for index in range(num_corpora):
        text = World(_FIRST_WORLD + index, held_out=True).corpus(num_tokens).text
        ids = torch.tensor([reader.tokenizer.encode(f"<bos> <system> {text}", add_special_tokens=False)])
        logits = reader.model(ids).logits[0, 1:-1].float()
        losses.append(F.cross_entropy(logits, ids[0, 2:]).item())
    return math.exp(sum(losses) / len(losses))


def self_study(
    reader: Reader, kind: str, chunk_tokens: int, num_chunks: int, per_chunk: int
) -> dict[str, float]:
    """How well a seed prompt works on chunks cut in mid-sentence: messages sampled as the recipe does, greedy answers.

    `valid`: share of the questions that ask for facts that the chunk states in whole; `right`: share of those that are
    answered rightly; `covered`: share of a chunk's facts that its valid questions ask for; `covered_if_uniform`: what as
    many draws of single facts with equal odds would cover.
    """
    valid = right = total = 0
    covered, uniform = [], []
    for index in range(num_chunks):
        corpus = World(_FIRST_WORLD + 500 + index, held_out=True).corpus(chunk_tokens + 60)
        start = 7 + index % 40
        chunk = corpus.cut(start, start + chunk_tokens)
        seeds = [SEED_PROMPTS[kind][i % len(SEED_PROMPTS[kind])] for i in range(per_chunk)]
        prompts = reader.reply(chunk.text, seeds, temperature=_TEMPERATURE, seed=index)
        questions = [question for prompt in prompts if (question := read(prompt, chunk))]
        replies = reader.reply(chunk.text, [question.prompt for question in questions]) if questions else []
        total += len(prompts)
        valid += len(questions)
        right += sum(question.is_right(reply) for question, reply in zip(questions, replies, strict=True))
        facts = {fact for question in questions for fact in question.facts}
        covered.append(len(facts) / len(chunk.spans))
        uniform.append(1 - (1 - 1 / len(chunk.spans)) ** per_chunk)
    mean = len(covered)
    return {
        "valid": valid / total,
        "right": right / max(1, valid),
        "covered": sum(covered) / mean,
        "covered_if_uniform": sum(uniform) / mean,
        "questions": total,
    }


def measure(reader: Reader, num_questions: int, quick: bool = False) -> dict[str, Any]:
    """All the figures of the model card, printed as they come."""
    report: dict[str, Any] = {"icl": {}, "self_study": {}}
    for length in LENGTHS:
        report["icl"][length] = found = icl_accuracy(reader, length, num_questions)
        print(
            f"ICL, {length:5d} tokens: {found['accuracy']:.3f} +- {found['standard_error']:.3f}", flush=True
        )
    found = report["no_context"] = icl_accuracy(reader, 1000, num_questions, with_text=False)
    print(f"no context:        {found['accuracy']:.3f} +- {found['standard_error']:.3f}", flush=True)
    report["perplexity"] = perplexity(reader, 1500)
    print(f"perplexity of corpora of 1500 tokens: {report['perplexity']:.2f}", flush=True)
    for chunk_tokens in CHUNKS:
        rows = report["self_study"][chunk_tokens] = {}
        for kind in SEED_PROMPTS:
            rows[kind] = found = self_study(reader, kind, chunk_tokens, 3 if quick else 10, 50)
            line = ", ".join(f"{key} {value:.3f}" for key, value in found.items() if key != "questions")
            print(f"self-study, {chunk_tokens}-token chunks, {kind}: {line}", flush=True)
    return report


def main(args: list[str] | None = None) -> None:
    """Prints the figures, and writes them where asked."""
    prog = "python -m pocket_lab.measure"
    run_command(
        prog,
        sys.argv[1:] if args is None else args,
        lambda left: run_function(measure_command, left, prog=prog),
    )


@checked
def measure_command(
    *,
    model: ReadModelFolder | None = None,
    questions: Count = 600,
    quick: bool = False,
    card: bool = False,
    json: WriteJsonName | None = None,
) -> None:
    """All figures of the model's card.

    Args:
        model: its folder; the bundled one by default.
        questions: per corpus length.
        quick: fewer self-study chunks.
        card: write the model's card into its folder.
        json: file for the figures.
    """
    start = time.perf_counter()
    reader = load(model)
    report = measure(reader, questions, quick)
    report["seconds"] = round(time.perf_counter() - start, 1)
    print(f"{report['seconds']} s")
    if card:
        write_card(Path(model or model_path()), report, reader.model, len(words()))
    if json:
        Path(json).write_text(dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
