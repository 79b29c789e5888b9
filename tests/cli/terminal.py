"""`appliance run m` on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time


class Terminal:
    """A program on a pseudo-terminal: what it shows, and keys pressed."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.fd, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "appliance", "run", "m", *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "80", **environment},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(child)
        self.seen = ""

    def until(self, text: str, timeout_s: float = 30) -> str:
        """Wait for `text`; returns what came up to and with it. What follows is kept for the next call."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come, only {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 4096).decode().replace("\r\n", "\n")
            except OSError:
                raise AssertionError(f"ended before {text!r}, after {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self.fd, text.encode())

    def says(self, line: str) -> str:
        """Type a line at the prompt; returns what is printed before the next one."""
        self.until(">>> ")
        self.type(f"{line}\n")
        self.until(line)
        answer = self.until("\n>>> ")
        self.seen = ">>> " + self.seen
        return answer.removesuffix(">>> ").strip()


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
