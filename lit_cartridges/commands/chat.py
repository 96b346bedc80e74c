"""``lit-cartridges chat``: a conversation with a cartridge, in the terminal."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from transformers import TextStreamer

from lit_cartridges.base_weights import other_weights, with_recorded
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.commands.model_options import add_model_options, model_options
from lit_cartridges.generation import generate
from lit_cartridges.models import hub_options, load_model, load_tokenizer
from lit_cartridges.self_study.renderer import ChatRenderer, user
from lit_cartridges.teachers.conversation import Message


def main(args: list[str]) -> None:
    """Ask a cartridge questions; an empty line, Ctrl-D or 'exit' ends the chat, '/new' forgets what was said."""
    parser = argparse.ArgumentParser(prog="lit-cartridges chat", description=main.__doc__)
    parser.add_argument("cartridges", nargs="+", help="folders or Hub repositories; several are composed")
    parser.add_argument("--model", help="the frozen model (default: the one that the cartridge names)")
    parser.add_argument(
        "--max_new_tokens", type=int, default=512, help="longest answer (default: %(default)s)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        help="of the model: auto (its files'), float32, bfloat16, float16 (default: the cartridge's)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_model_options(parser)
    options = parser.parse_args(args)
    cartridge = Cartridge.compose([Cartridge.from_pretrained(path) for path in options.cartridges])
    name, settings = with_recorded(
        [cartridge.provenance], options.model, {"dtype": options.dtype, **model_options(options)}
    )
    if not name:
        raise ValueError("the cartridge does not name its model; give --model")
    setting = "--model" if options.model else "base_model of the cartridge"
    tokenizer = load_tokenizer(name, setting=setting, **hub_options(settings))
    model = load_model(name, device=options.device, setting=setting, **settings)
    cartridge.require_fit(model)
    if difference := other_weights(cartridge, model):
        print(f"warning: {difference}", file=sys.stderr)
    print(f"{name} with {cartridge.num_tokens} positions in front. /new starts over, an empty line ends.")
    chat = Chat(model, tokenizer, cartridge, options)
    while (line := _read_line()) not in ("", "exit"):
        if line == "/new":
            chat.messages.clear()
        else:
            chat.ask(line)


class Chat:
    """The messages so far and how to answer the next.

    Args:
        options: ``max_new_tokens`` and ``temperature``.
    """

    def __init__(self, model: Any, tokenizer: Any, cartridge: Cartridge, options: Any) -> None:
        self.model, self.tokenizer, self.cartridge, self.options = model, tokenizer, cartridge, options
        self.renderer = ChatRenderer(tokenizer)
        self.messages: list[Message] = []

    def ask(self, question: str) -> str:
        """Print the answer as it comes, and return it."""
        self.messages.append(user(question))
        prompt = torch.tensor([self.renderer.prompt_ids(self.messages)], device=self.model.device)
        sampling = (
            {"do_sample": True, "temperature": self.options.temperature} if self.options.temperature else {}
        )
        stops = list(self.renderer.stop_token_ids(self.model.generation_config))
        output = generate(
            self.model,
            self.cartridge,
            prompt,
            max_new_tokens=self.options.max_new_tokens,
            eos_token_id=stops,
            pad_token_id=stops[0],
            streamer=TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True),
            **({"do_sample": False} | sampling),
        )
        reply = output[0, prompt.shape[1] :].cpu().numpy()
        text = self.renderer.text(reply)
        self.messages.append(Message("assistant", text, reply))
        return text


def _read_line() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return ""
