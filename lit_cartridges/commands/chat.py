"""``lit-cartridges chat``: a conversation with a cartridge, in the terminal."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TextStreamer

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.commands.parsers import CommandParser, option
from lit_cartridges.generation import generate
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.self_study.renderer import ChatRenderer, user
from lit_cartridges.settings import DeviceName, DTypeName, PositiveInt, Temperature
from lit_cartridges.teachers.conversation import Message


def main(args: list[str]) -> None:
    """Ask a cartridge questions; an empty line, Ctrl-D or 'exit' ends the chat, '/new' forgets what was said."""
    parser = CommandParser(prog="lit-cartridges chat", description=main.__doc__)
    parser.add_argument("cartridges", nargs="+", help="folders or Hub repositories; several are composed")
    parser.add_argument("--model", help="the frozen model (default: the one that the cartridge names)")
    parser.add_argument(
        "--max_new_tokens",
        type=option(PositiveInt),
        default=512,
        help="longest answer (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature", type=option(Temperature), default=0.0, help="0 is greedy (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        type=option(DTypeName),
        default="auto",
        help="of the model: auto, float32, bfloat16, float16",
    )
    parser.add_argument(
        "--device", type=option(DeviceName), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    options = parser.parse_args(args)
    cartridge = Cartridge.compose([Cartridge.from_pretrained(path) for path in options.cartridges])
    name = options.model or cartridge.provenance.base_model
    if not name:
        raise ValueError("the cartridge does not name its model; give --model")
    model = load_model(name, dtype=options.dtype, device=options.device)
    cartridge.require_fit(model)
    print(f"{name} with {cartridge.num_tokens} positions in front. /new starts over, an empty line ends.")
    chat = Chat(model, load_tokenizer(name), cartridge, options)
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
