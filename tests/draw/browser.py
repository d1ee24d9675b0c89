"""Chromium, headless, over its own protocol."""

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-port=0 "
    "--remote-allow-origins=* --no-first-run --disable-background-networking --disable-sync "
    "--disable-component-update --host-resolver-rules=MAP\x00*\x00~NOTFOUND"
).split(" ")


def program():
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One page of one browser; what it asked for and what went wrong are kept."""

    def __init__(self, width=1200, height=800):
        websocket = pytest.importorskip("websocket")
        self.folder = tempfile.TemporaryDirectory(prefix="browser", ignore_cleanup_errors=True)
        flags = [flag.replace("\x00", " ") for flag in FLAGS]
        self.process = subprocess.Popen(
            [program(), *flags, f"--user-data-dir={self.folder.name}",
             f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            port = Path(self.folder.name, "DevToolsActivePort")
            self.until(lambda: port.exists() and port.read_text().strip())
            number = port.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{number}/json") as answer:
                tabs = json.load(answer)
            (tab,) = [tab for tab in tabs if tab["type"] == "page"]
            self.socket = websocket.create_connection(
                tab["webSocketDebuggerUrl"], timeout=60, suppress_origin=True
            )
            self.number, self.events = 0, []
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.ask(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def until(self, done, seconds=30):
        end = time.monotonic() + seconds
        while not (found := done()):
            assert time.monotonic() < end, "the browser did not get there"
            time.sleep(0.02)
        return found

    def ask(self, method, **params):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def js(self, expression):
        """The value of an expression, or of what it promises."""
        answer = self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, path, until="window.ready || window.failed || window.waiting"):
        self.events.clear()
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=path if "://" in str(path) else Path(path).as_uri())
        self.until(lambda: self.js(f"Boolean({until})"))
        assert not self.js("window.failed"), self.js("window.failed")
        return self

    def settled(self, change):
        """Do something and wait until the picture is another one."""
        self.js("window.before = document.querySelector('#view svg')")
        change()
        self.until(lambda: self.js("document.querySelector('#view svg') !== window.before"))

    def place(self, selector):
        """Middle and size of an element, in points of the window."""
        return self.js(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2, "
            "b.width, b.height] })()"
        )

    def click(self, selector):
        x, y, *_ = self.place(selector)
        self.click_at(x, y)

    def click_at(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key, text=""):
        code = {"Enter": 13, "ArrowDown": 40, "ArrowUp": 38, "Escape": 27, "/": 191}.get(key, 0)
        more = {"text": text} if text else {}
        self.ask(
            "Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **more
        )
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def write(self, words):
        self.ask("Input.insertText", text=words)

    def picture(self, path):
        shot = self.ask("Page.captureScreenshot")["data"]
        Path(path).write_bytes(base64.b64decode(shot))

    def requests(self):
        """What was asked for, by the scheme of its address."""
        self.js("1")  # what is under way arrives
        return [
            event["params"]["request"]["url"].partition(":")[0]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def complaints(self):
        """Exceptions, and errors in the log, those of the security policy among them."""
        self.js("1")
        return [
            event["params"]
            for event in self.events
            if event.get("method") == "Runtime.exceptionThrown"
            or (
                event.get("method") == "Log.entryAdded"
                and event["params"]["entry"]["level"] == "error"
            )
        ]

    def close(self):
        if hasattr(self, "socket"):
            self.socket.close()
        if self.process.poll() is None:  # and its children, which are of its session
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        self.folder.cleanup()
