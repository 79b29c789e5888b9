"""Resident memory of the servers: loaded, while all slots are full, and afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from scripts.bench.bench import Bench
from scripts.bench.core import LLAMA, OURS, Case, Figures, Metric
from scripts.bench.crowd import question
from scripts.bench.servers import Server, load

ANSWER_TOKENS = 96
LOOK_EVERY_S = 0.25
REST_S = 1.0
METRICS = (
    Metric("loaded", "MB", "less"),
    Metric("serving, at most", "MB", "less"),
    Metric("serving, at most, shared pages split", "MB", "less"),
    Metric("afterwards", "MB", "less"),
    Metric("tokens in all slots", ""),
)


def cases(bench: Bench) -> list[Case]:
    """One case; servers that have answered nothing before."""
    sizes = bench.sizes
    prompt = sizes.slot_tokens - ANSWER_TOKENS - int(0.04 * sizes.slot_tokens)

    def once(server_of: Callable[[int, int], AbstractContextManager[Server]]) -> Figures:
        if not bench.prompts.knows(prompt):
            with bench.ours(1, sizes.slot_tokens) as server:
                bench.prompts.calibrate(prompt, server.count)
        with server_of(sizes.slots, sizes.slot_tokens) as server:
            return memory(bench, server, prompt)

    contestants = {OURS: lambda: once(bench.ours)}
    if bench.llama:
        contestants[LLAMA] = lambda: once(bench.theirs)
    return [Case("", contestants)]


def memory(bench: Bench, server: Server, prompt: int) -> Figures:
    """Fill every slot at the same time with a prompt and an answer, and look on."""
    load(server)
    loaded = server.memory_mb()
    asks = [[question(bench, prompt, ANSWER_TOKENS)] for _ in range(bench.sizes.slots)]
    with Watch(server) as watch:
        answers = server.ask(*asks)
    time.sleep(REST_S)
    return {
        "loaded": loaded["rss"],
        "serving, at most": watch.most["rss"],
        "serving, at most, shared pages split": watch.most["pss"],
        "afterwards": server.memory_mb()["rss"],
        "tokens in all slots": sum(answer.prompt_tokens + answer.tokens for answer in answers),
    }


class Watch:
    """Looks at a server's memory from another thread; `most` is the highest it saw of each kind, in MB."""

    def __init__(self, server: Server) -> None:
        self.most = {"rss": 0.0, "pss": 0.0}
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            over = self._over.wait(LOOK_EVERY_S)
            for name, megabytes in self._server.memory_mb().items():
                self.most[name] = max(self.most[name], megabytes)
            if over:
                return
