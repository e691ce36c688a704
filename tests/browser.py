"""A headless Chromium, driven over a pipe by the DevTools protocol: no driver, no socket, no package.

https://chromedevtools.github.io/devtools-protocol/ describes the messages; with --remote-debugging-pipe Chromium reads
them from file descriptor 3 and writes its own to 4, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Escape": 27, "Enter": 13, "Tab": 9, "/": 191, "2": 50, "End": 35}
TEXTS = {"Enter": "\r"}  # what a key types, if it is not its name
READY = "document.documentElement?.dataset.ready === 'true'"  # as our pages say it
NAVIGATING = -32000  # what DevTools answers then
PATIENCE = 30.0  # seconds for anything to happen


def find() -> str | None:
    """The path of a Chromium on this machine; `REFSEG_TEST_BROWSER` names another."""
    return os.environ.get("REFSEG_TEST_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


class Pipe:
    """Messages to and from a browser."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._buffer, self._number = to, back, b"", 0

    def send(self, message: dict[str, Any]) -> int:
        """The number by which the answer is known."""
        self._number += 1
        os.write(self._to, json.dumps({"id": self._number, **message}).encode() + b"\0")
        return self._number

    def receive(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._back], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            read = os.read(self._back, 1 << 20)
            assert read, "the browser has ended"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


class Navigating(AssertionError):
    """The page that was asked has just given way to another one."""


class Browser:
    """One tab. Everything that its console and its policies complain of is in `complaints`.

    Args:
        context: whose cookies it has; None for those of the browser.
    """

    def __init__(self, process: subprocess.Popen[bytes], pipe: Pipe, context: str | None = None) -> None:
        self._process, self._pipe, self._session = process, pipe, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.seconds = 0.0  # that the last page took
        own = {} if context is None else {"browserContextId": context}
        target = self._call("Target.createTarget", url="about:blank", **own)["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def person(self) -> Browser:
        """A tab of somebody else, who shares no cookies and no storage with this one."""
        session, self._session = self._session, ""
        context = self._call("Target.createBrowserContext")["browserContextId"]
        self._session = session
        return Browser(self._process, self._pipe, context)

    def open(self, url: str, *, ready: bool = True) -> float:
        """Seconds until the page said that it is ready, if it should."""
        start = time.perf_counter()
        self._call("Page.navigate", url=url)
        if not ready:
            return 0.0
        self.wait(READY)
        return time.perf_counter() - start

    def _is_true(self, expression: str) -> bool:
        """False, too, while another page comes."""
        try:
            return bool(self.run(expression))
        except Navigating:
            return False

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the expression is true."""
        end = time.monotonic() + PATIENCE
        while not self._is_true(expression):
            assert time.monotonic() < end, f"never true: {expression}; {self.complaints}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            typed = TEXTS.get(key, key if len(key) == 1 else "")
            text = {"text": typed} if typed and kind == "keyDown" else {}
            code = KEYS.get(key, ord(key[0].upper()))
            self._call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of the first element that fits."""
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'nearest', behavior: 'instant'}})")
        box = f"document.querySelector({selector!r}).getBoundingClientRect()"
        x, y = self.run(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box})")
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Into whatever has the focus."""
        self._call("Input.insertText", text=text)

    def scheme(self, name: str) -> None:
        """`dark` or `light`, as the person's system prefers."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def size(self, width: int, height: int) -> None:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def end(self) -> None:
        """Close the browser, and wait until it has written what it writes."""
        self._session = ""
        self._call("Browser.close")
        self._process.wait(PATIENCE)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        message: dict[str, Any] = {"method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        number = self._pipe.send(message)
        while True:
            answer = self._pipe.receive()
            if answer.get("id") == number:
                if answer.get("error", {}).get("code") == NAVIGATING:
                    raise Navigating(f"{method}: {answer['error']}")
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(parameters["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(str(parameters["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh `profile` folder, ended with the block.

    Raises:
        RuntimeError: there is none on this machine.
    """
    path = find()
    if path is None:
        raise RuntimeError("no Chromium on this machine")
    (commands, to), (back, answers) = os.pipe(), os.pipe()

    def hand_over() -> None:
        # Both are moved out of the way first: either could be 3 or 4 already.
        high = [os.dup2(commands, 103), os.dup2(answers, 104)]
        for descriptor, wanted in zip(high, (3, 4), strict=True):
            os.dup2(descriptor, wanted)

    process = subprocess.Popen(
        [path, *OPTIONS, f"--user-data-dir={profile}"],
        preexec_fn=hand_over,  # the only way to give a child descriptors 3 and 4
        close_fds=False,
        env={**os.environ, "TMPDIR": str(profile)},  # or it leaves folders in the machine's own
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    try:
        browser = Browser(process, Pipe(to, back))
        yield browser
        browser.end()
    finally:
        process.terminate()
        process.wait(PATIENCE)
        os.close(to)
        os.close(back)
