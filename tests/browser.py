"""Chromium, driven by its DevTools protocol over two pipes. Tests open pages in it, as people do."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from contextlib import contextmanager

import pytest

PROGRAM = shutil.which("chromium")
TIMEOUT_S = 60
# Pages may only ask this machine.
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--lang=en-US"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@contextmanager
def chromium():
    """Run Chromium until the end of the `with` statement. Without it, skip the test."""
    if PROGRAM is None:
        pytest.skip("chromium is not installed (the package chromium of Debian)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        commands, answers = os.pipe(), os.pipe()
        process = _start([PROGRAM, *OPTIONS, f"--user-data-dir={home}"], home, commands[0], answers[1])
        os.close(commands[0])
        os.close(answers[1])
        browser = Browser(commands[1], answers[0])
        try:
            yield browser
        finally:
            browser.close()
            _end(process)


def _start(command, home, reading, writing):
    """Start the browser, which reads commands from file descriptor 3 and writes answers to 4. Return its process id."""
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in (reading, writing)]
    actions = [
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, high[0], 3),
        (os.POSIX_SPAWN_DUP2, high[1], 4),
    ]
    process = os.posix_spawn(
        command[0], command, {**os.environ, "HOME": home}, file_actions=actions, setpgroup=0
    )  # its processes have a group of their own
    for number in high:
        os.close(number)
    return process


def _end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)


class Browser:
    """A browser that runs. `events` has what it told without being asked."""

    def __init__(self, commands, answers):
        self._commands, self._answers = commands, answers
        self._received, self._last = b"", 0
        self.events = []

    def close(self):
        os.close(self._commands)
        os.close(self._answers)

    def send(self, method, session=None, **parameters):
        """Send a command, and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        while (answer := self._receive()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _receive(self):
        end = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._received:
            if not select.select([self._answers], [], [], max(0, end - time.monotonic()))[0]:
                pytest.fail("the browser does not answer")
            part = os.read(self._answers, 1 << 20)
            if not part:
                pytest.fail("the browser has ended")
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def open(self, url, *, width=1200, height=900):
        """Open a page in a window of this size."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        page.send("Page.navigate", url=url)
        page.until("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page


class Page:
    """A page in the browser."""

    def __init__(self, browser, session):
        self._browser, self._session = browser, session

    def send(self, method, **parameters):
        return self._browser.send(method, self._session, **parameters)

    def evaluate(self, expression):
        """Return the value of JavaScript. A promise is awaited."""
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self.send("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition):
        """Wait until a condition of JavaScript is true."""
        timer = time.monotonic() + TIMEOUT_S
        while not self.evaluate(f"new Promise((go) => requestAnimationFrame(() => go(Boolean({condition}))))"):
            assert time.monotonic() < timer, f"{condition} does not become true"

    def text(self, selector):
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def write(self, selector, text):
        """Put a text into a field."""
        field = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{field}.value = {json.dumps(text)}; {field}.dispatchEvent(new Event('change'))")

    def click(self, selector):
        """Click on the middle of an element."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        place = self.evaluate(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({element}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def screenshot(self):
        """Return the visible part of the page, as a PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def problems(self):
        """Return what the page's console has of errors: of scripts, of the policy, and of requests."""
        self.evaluate("0")  # what came before is received now
        found = []
        for event in self._own_events():
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(event["params"]["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
        return found

    def requested(self):
        """Return the addresses that the page has asked."""
        self.evaluate("0")
        return [
            event["params"]["request"]["url"]
            for event in self._own_events()
            if event["method"] == "Network.requestWillBeSent"
        ]

    def _own_events(self):
        return [event for event in self._browser.events if event.get("sessionId") == self._session]
