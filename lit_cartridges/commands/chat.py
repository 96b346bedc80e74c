"""``lit-cartridges chat``: a conversation with a cartridge, in the terminal."""

from __future__ import annotations

import sys
from typing import Any

import torch

from lit_cartridges.attached import AttachedCartridge
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.command_line.model_options import add_model_options, model_options
from lit_cartridges.command_line.parsers import CommandParser, option
from lit_cartridges.commands.reply_streamer import ReplyStreamer
from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import user
from lit_cartridges.models import hub_options, load_model, load_tokenizer
from lit_cartridges.models.base_weights import other_weights, with_recorded
from lit_cartridges.settings import DeviceName, DTypeName, PositiveInt, Temperature
from lit_cartridges.terminal import printable, printable_line


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
        help="of the model: auto (its files'), float32, bfloat16, float16 (default: the cartridge's)",
    )
    parser.add_argument(
        "--device", type=option(DeviceName), default="cuda" if torch.cuda.is_available() else "cpu"
    )
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
    attached = cartridge.attach(model, tokenizer)
    if difference := other_weights(cartridge, model):
        print(printable_line(f"warning: {difference}"), file=sys.stderr)
    print(
        f"{printable_line(name)} with {cartridge.num_tokens} positions in front. /new starts over, an empty line ends."
    )
    chat = Chat(attached, options)
    while (line := _read_line()) not in ("", "exit"):
        if line == "/new":
            chat.messages.clear()
        else:
            try:
                chat.ask(line)
            except ValueError as error:  # of this question alone; the chat goes on
                print(printable(error))


class Chat:
    """The messages so far and how to answer the next.

    Args:
        options: ``max_new_tokens`` and ``temperature``.
    """

    def __init__(self, attached: AttachedCartridge, options: Any) -> None:
        self.attached, self.options = attached, options
        self.messages: list[Message] = []

    def ask(self, question: str) -> str:
        """Print the answer as it comes, and return it."""
        self.messages.append(user(question))
        self._make_room()
        sampling = (
            {"do_sample": True, "temperature": self.options.temperature} if self.options.temperature else {}
        )
        try:
            reply = self.attached.reply_ids(
                self.messages,
                max_new_tokens=self.options.max_new_tokens,
                streamer=ReplyStreamer(self.attached.tokenizer),
                **sampling,
            ).numpy()
        except ValueError:
            self.messages.pop()
            raise
        text = self.attached.renderer.text(reply)
        self.messages.append(Message("assistant", text, reply))
        return text

    def _make_room(self) -> None:
        """Drop the oldest questions with their answers while the chat leaves no room for a whole answer."""
        dropped = 0
        while len(self.messages) > 1:
            room = self.attached.room(self.messages)
            if room is None or room >= self.options.max_new_tokens:
                break
            del self.messages[:2]
            dropped += 1
        if dropped:
            print(f"(the chat outgrew the model's positions: {dropped} of the oldest questions forgotten)")


def _read_line() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return ""
