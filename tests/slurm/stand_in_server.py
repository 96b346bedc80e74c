"""Stands in for a vLLM server where vLLM is not installed: a real model behind vLLM's dialect of /v1/completions.

Takes the options of vllm.entrypoints.openai.api_server that the job passes. A reply is decided by the request.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

_turn = Lock()


class Handler(BaseHTTPRequestHandler):
    model: Any
    tokenizer: Any
    name: str

    def do_GET(self) -> None:
        self._answer({"data": [{"id": self.name}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with _turn:
            self._answer(complete(self.model, self.tokenizer, body))

    def _answer(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def complete(model: Any, tokenizer: Any, body: dict[str, Any]) -> dict[str, Any]:
    """One choice for the prompt, or for each of several."""
    prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
    return {"choices": [choice(model, tokenizer, body, ids) | {"index": i} for i, ids in enumerate(prompts)]}


@torch.no_grad()
def choice(model: Any, tokenizer: Any, body: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    """Tokens sampled by the request's seed, each with its top-k log-probabilities at temperature 1."""
    noise = torch.Generator().manual_seed(body["seed"] % 2**63)
    new: list[int] = []
    rows: list[dict[str, float]] = []
    while len(new) < body["max_tokens"] and not (new and new[-1] in body["stop_token_ids"]):
        logprobs = model(torch.tensor([ids + new])).logits[0, -1].log_softmax(-1)
        gumbel = -torch.empty_like(logprobs).exponential_(generator=noise).log()
        new.append(int((logprobs + body["temperature"] * gumbel).argmax()))
        best = [new[-1], *logprobs.topk(body["logprobs"]).indices.tolist()]
        rows.append({f"token_id:{i}": float(logprobs[i]) for i in best})
    return {
        "text": tokenizer.decode(new, skip_special_tokens=True),
        "finish_reason": "stop" if new[-1] in body["stop_token_ids"] else "length",
        "logprobs": {"tokens": [f"token_id:{i}" for i in new], "top_logprobs": rows},
        "token_ids": new,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("model", "served-model-name", "max-logprobs", "generation-config", "tensor-parallel-size"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    Handler.model = AutoModelForCausalLM.from_pretrained(options.model)
    Handler.tokenizer = AutoTokenizer.from_pretrained(options.model)
    Handler.name = options.served_model_name
    ThreadingHTTPServer(("", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
