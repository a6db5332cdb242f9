"""A headless Chromium that a test drives over a pipe (Chrome DevTools Protocol), with the standard library alone.

`python tests/support/browser.py PAGE OUT.png WIDTH [dark]` takes a picture of a whole page.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
REQUIRED = "SECFED_REQUIRE_BROWSER"
PATIENCE_SECONDS = 60.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--remote-debugging-pipe",
)


def find_browser() -> str | None:
    """The first Chromium on the path, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page in one browser; every event that Chromium tells is kept in `events`."""

    def __init__(self) -> None:
        program = find_browser()
        if program is None:
            raise FileNotFoundError(f"no browser: none of {', '.join(NAMES)} is on the path")
        self.events: list[dict[str, Any]] = []
        self._replies: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._left = b""
        self._profile = tempfile.mkdtemp(prefix="secfed-browser-")
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        # Chromium reads commands from descriptor 3 and writes to 4; the shell puts the two ends there.
        script = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._session: str | None = None
        try:
            target = self.send("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.send(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        self._until(lambda: self._number in self._replies, method)
        reply = self._replies.pop(self._number)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        result: dict[str, Any] = reply["result"]
        return result

    def open(self, address: str, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a page in a window of that size and wait until it is drawn."""
        # From a page of its own each time: going to another place of the same page loads nothing.
        for destination in ("about:blank", address):
            self._go(destination, width=width, height=height, dark=dark)
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, a promise waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def named(self, method: str) -> list[dict[str, Any]]:
        """Parameters of the events of that name since the page was opened."""
        return [event["params"] for event in self.events if event["method"] == method]

    def picture(self, *, top: int = 0, height: int | None = None) -> bytes:
        """A PNG of the whole page, or of a part of it."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        tall = size["height"] - top if height is None else min(height, size["height"] - top)
        clip = {"x": 0, "y": top, "width": size["width"], "height": tall, "scale": 1}
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def close(self) -> None:
        """Stop the browser and remove its profile."""
        for end in (self._commands, self._answers):
            os.close(end)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _go(self, address: str, *, width: int, height: int, dark: bool) -> None:
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        answer = self.send("Page.navigate", url=address)
        if "errorText" in answer:
            raise RuntimeError(f"{address}: {answer['errorText']}")
        self._until(lambda: bool(self.named("Page.loadEventFired")), f"loading {address}")

    def _until(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError(f"the browser did not answer within {PATIENCE_SECONDS:g} s: {what}")
            data = os.read(self._answers, 1 << 20)
            if not data:
                raise RuntimeError(f"the browser went away: {what}")
            *messages, self._left = (self._left + data).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._replies[message["id"]] = message
                else:
                    self.events.append(message)


if __name__ == "__main__":
    page, out, wide, *rest = sys.argv[1:]
    with Browser() as browser:
        browser.open(Path(page).resolve().as_uri(), width=int(wide), dark="dark" in rest)
        pieces = browser.send("Page.getLayoutMetrics")["cssContentSize"]
        for index, start in enumerate(range(0, int(pieces["height"]), 2200)):
            Path(f"{out}-{index:02d}.png").write_bytes(browser.picture(top=start, height=2200))
        sys.stdout.write(f"{pieces} {browser.named('Runtime.exceptionThrown')} {browser.named('Log.entryAdded')}\n")
