"""The questions and answers of ``lit-cartridges chat``."""

from __future__ import annotations

from typing import Any

from lit_cartridges.attached import AttachedCartridge
from lit_cartridges.commands.reply_streamer import ReplyStreamer
from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import user
from lit_cartridges.terminal import printable


class TerminalChat:
    """The messages so far and how to answer the next.

    Args:
        max_new_tokens: longest answer.
        temperature: 0 is greedy.
    """

    def __init__(self, attached: AttachedCartridge, *, max_new_tokens: int, temperature: float) -> None:
        self.attached, self.max_new_tokens = attached, max_new_tokens
        self.sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {}
        self.messages: list[Message] = []

    def run(self) -> None:
        """Answer lines until an empty one, 'exit' or the end of the input."""
        while (line := _read_line()) not in ("", "exit"):
            if line == "/new":
                self.messages.clear()
            else:
                try:
                    self.ask(line)
                except ValueError as error:  # of this question alone; the chat goes on
                    print(printable(error))

    def ask(self, question: str) -> str:
        """Print the answer as it comes, and return it."""
        self.messages.append(user(question))
        self._make_room()
        try:
            route = self.attached.route_messages(self.messages)
            if route is not None and not route.reads:
                print(f"({route}: answered without the cartridge)")
            reply = self.attached.reply_ids(
                self.messages,
                max_new_tokens=self.max_new_tokens,
                behind=route is None or route.reads,
                streamer=ReplyStreamer(self.attached.tokenizer),
                **self.sampling,
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
            if room is None or room >= self.max_new_tokens:
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
