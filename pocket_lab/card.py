"""The bundled model's card, written from the figures of `pocket_lab.measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CARD = """---
license: apache-2.0
library_name: transformers
tags: [cartridges, toy-model, in-context-retrieval]
---

# The pocket model

A Llama of {parameters:,} parameters ({layers} layers, {size} wide, {heads} heads with as many KV heads, untied
embeddings, biases on the attention's projections, fp32), trained from scratch on the invented language of
`lit_cartridges.pocket`. It exists so that cartridges can be trained, tested and shown where no weights can be
downloaded. One run of `recipes/pocket_pretrain.yaml` made these weights, on two CPU cores.

It knows that language only ({words} words; `lit_cartridges.pocket.unknown_words(text)` names the words of a text that
it lacks), and no fact by heart. Given a corpus as the system's message, it answers questions about it by restating
the fact, writes a user's message about it when the user's message is one of the five seed prompts, and continues it.

Chat format, rendered by the chat template: `<bos> <system> TEXT <user> QUESTION <assistant> ANSWER <end> <user> ...`;
the system's message is optional.

## What was measured

{icl}

Greedy answers whose value words are exactly the right ones, on held-out worlds: no training world holds their (name,
value) pairs.

Next-token perplexity of held-out corpora of 1,500 tokens: {perplexity:.2f}.

{study}

Chunks of held-out worlds, cut in mid-sentence; messages sampled at temperature 0.8, as `recipes/pocket.yaml` does.
*Valid* messages ask for facts that the chunk states in whole; *right* is the share of valid ones that the model then
answers with exactly the right values, all that were asked for and no other; *covered* is the share of a chunk's facts
that its valid messages ask for, in brackets what as many draws of one fact with equal odds would cover.

These figures were printed by `python -m pocket_lab.measure --questions {questions}`; with `--card` it
writes this page.

## Limits

Sentences that follow none of the language's templates; words outside the vocabulary; several values of one attribute
of one name; anything that takes more than one fact, except listing facts of one name, where it often leaves some out.
The longer the chunk, the more of its messages name somebody whom the chunk does not: keep chunks short. Asked about a
fact that the text does not state, it makes one up.
"""


def write_card(folder: Path, report: dict[str, Any], model: Any, num_words: int) -> None:
    """Writes `README.md` into the model's folder, from a report of `measure` and the model it is about."""
    icl = ["| corpus, tokens | ICL accuracy | standard error |", "| ---: | ---: | ---: |"]
    for length, found in [*report["icl"].items(), ("no corpus", report["no_context"])]:
        icl.append(f"| {length} | {found['accuracy']:.3f} | {found['standard_error']:.3f} |")
    study = [
        "| chunk, tokens | seed prompt | valid | right | covered |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    for chunk_tokens, kinds in report["self_study"].items():
        for kind, found in kinds.items():
            covered = f"{found['covered']:.2f} ({found['covered_if_uniform']:.2f})"
            row = f"| {chunk_tokens} | {kind} | {found['valid']:.2f} | {found['right']:.2f} | {covered} |"
            study.append(row)
    card = _CARD.format(
        parameters=model.num_parameters(),
        layers=model.config.num_hidden_layers,
        size=model.config.hidden_size,
        heads=model.config.num_attention_heads,
        words=num_words,
        icl="\n".join(icl),
        perplexity=report["perplexity"],
        study="\n".join(study),
        questions=report["no_context"]["questions"],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
