"""A headless Chromium that is driven over two pipes, by its own protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
).split()


class Browser:
    """One page.

    Attributes:
        said: what the console, the page's policy and uncaught errors had to say.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._held, self._count = to, back, b"", 0
        self.said: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session: str | None = None
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str, *, width: int = 1100, height: int = 800, dark: bool = False) -> None:
        """A page, in a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", {"features": scheme})
        self._call("Page.navigate", {"url": url})

    def run(self, script: str) -> Any:
        """The value of an expression."""
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self._call("Runtime.evaluate", asked)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, condition: str, *, timeout_s: float = 60.0) -> None:
        """Wait until the expression holds."""
        until = time.monotonic() + timeout_s
        tried = f"(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()"  # it may be loading
        while not self.run(tried):
            assert time.monotonic() < until, (condition, self.run("document.body.innerText"), self.said)
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of what is found."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{place}.scrollIntoView({{block: 'center'}})")
        box = self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({place}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            event = {"type": kind, "x": box[0], "y": box[1], "button": "left", "clickCount": 1}
            self._call("Input.dispatchMouseEvent", event)

    def write(self, text: str) -> None:
        """Into what has the focus."""
        self._call("Input.insertText", {"text": text})

    def press(self, key: str) -> None:
        """A key, by its name and character."""
        known = {"Enter": ("\r", 13), "Tab": ("", 9), " ": (" ", 32)}
        text, code = known[key]
        event = {"key": key, "windowsVirtualKeyCode": code, "text": text}
        self._call("Input.dispatchKeyEvent", {"type": "keyDown", **event})
        self._call("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def shot(self, file: Path) -> None:
        """What is seen, as a PNG."""
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        self._count += 1
        call = {"id": self._count, "method": method, "params": params or {}}
        if getattr(self, "_session", None) and not method.startswith("Target."):
            call["sessionId"] = self._session
        os.write(self._to, json.dumps(call).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._count:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            if message.get("method") == "Log.entryAdded":
                self.said.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.said.append(json.dumps(message["params"]["exceptionDetails"]))
            if message.get("method") == "Runtime.consoleAPICalled":
                self.said.append(json.dumps(message["params"]["args"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            part = os.read(self._back, 2**20)
            assert part, "the browser has ended"
            self._held += part
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Chromium with ``folder`` for its files."""
    (its_input, to), (back, its_output) = os.pipe(), os.pipe()
    options = [*_OPTIONS, f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$0" "$@" 3<&{its_input} 4>&{its_output}', str(CHROMIUM), *options],
        pass_fds=(its_input, its_output),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_input)
    os.close(its_output)
    try:
        yield Browser(to, back)
    finally:
        process.kill()
        process.wait()
        os.close(to)
        os.close(back)
