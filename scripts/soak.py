"""Mixed random load against a server of its own, to see that it can run for ever. Exit status 1 when it could not.

The load: chat and generate, streaming and whole, free and under a schema, short, long and shared prompts, clients
that leave at random moments, requests that are wrong, and a second, tiny model that comes and goes.

Three things are checked:

- Every request has exactly one end: done, an error that it deserved, or our own leaving. Anything else is lost.
- At the end no slot is held and nobody waits.
- Memory is flat. Every `CENSUS_S` the load pauses, the tiny model unloads, and the server's proportional set size
  (PSS, in bytes) is taken, less what the prefix cache says that it holds: that comes and goes within its bound. The
  first quarter belongs to the warm-up, which begins by filling every slot to its last token and the prefix cache; the
  median of the last quarter must not exceed that of the second by more than 1 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from tests.real_model import model_path
from tests.server.daemon import Server
from tests.tiny_model import write_tiny_gguf

MAIN, COPY, TINY = "soak", "soak-copy", "tiny"
CLIENTS = 8
SLOTS = 4
CONTEXT_TOKENS = 2048
PREFIX_CACHE_BYTES = 32 * 2**20
CENSUS_S = 60.0
GROWTH_LIMIT = 0.01
REQUEST_LIMIT_S = 300.0  # longer than any request takes: what takes longer is lost
TEXT = "the river old lighthouse keeper counted seven grey ships before winter came and nobody spoke again"
WORDS = TEXT.split()
SYSTEMS = tuple(f"You are assistant number {n}. " + " ".join(WORDS * 12) for n in range(3))
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
WRONG: tuple[tuple[str, bytes, int], ...] = (  # path, body, the status it deserves
    ("/api/chat", b'{"model":', 400),
    ("/api/chat", b'{"model":"no-such-model","messages":[{"role":"user","content":"x"}]}', 404),
    ("/api/generate", b'{"model":"soak","prompt":"x","options":{"seed":"seven"}}', 500),
    ("/api/generate", b'{"model":"soak","prompt":"x","format":"xml"}', 500),
    ("/api/chat", b'{"model":"soak","messages":[{"role":"user","content":"' + b"word " * 3000 + b'"}]}', 400),
)


@dataclass
class Tally:
    """Requests by how they ended; `lost` says what was wrong with those that had no end or another one."""

    started: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def adds_up(self) -> bool:
        """Whether every request that began has one end."""
        return self.started == sum(self.ended.values()) and not self.lost


@dataclass(frozen=True)
class Sample:
    """Memory at rest, in bytes: all of it, and the part that is the prefix cache's."""

    at_s: float
    pss: int
    prefix_cache: int

    @property
    def rest(self) -> int:
        """What must not grow."""
        return self.pss - self.prefix_cache


class Soak:
    """One run against one server."""

    def __init__(self, server: Server, seconds: float, seed: int) -> None:
        self.tally = Tally()
        self.samples: list[Sample] = []
        self._server = server
        self._seconds = seconds
        self._random = random.Random(seed)
        self._open = asyncio.Event()  # closed while memory is taken
        self._running = 0
        self._client = httpx.AsyncClient(base_url=server.url, timeout=REQUEST_LIMIT_S)

    async def run(self) -> list[str]:
        """Warm up, load, check; returns what failed."""
        await self._warm_up()
        self._start_s = time.monotonic()
        self._open.set()
        clients = [asyncio.create_task(self._customer()) for _ in range(CLIENTS)]
        interval = min(CENSUS_S, self._seconds / 20)
        while self._left() > interval:
            await asyncio.sleep(interval)
            await self._census()
        await asyncio.gather(*clients)
        failures = await self._held() + ([] if self.tally.adds_up else ["requests were lost"])
        await self._client.aclose()
        growth = memory_growth(self.samples)
        if growth is not None and growth > GROWTH_LIMIT:
            failures.append(f"memory grew by {growth:.2%}")
        return failures

    def _left(self) -> float:
        return self._start_s + self._seconds - time.monotonic()

    async def _warm_up(self) -> None:
        """Fill every slot and the prefix cache, with raw prompts, which are cut to the whole context."""
        for turn in range(2):
            answers = []
            for slot in range(SLOTS):
                body = {"model": MAIN, "prompt": self._words(3000, f"{turn} {slot} "), "raw": True, "stream": False}
                body |= {"options": {"num_predict": 1}, "keep_alive": -1}
                answers.append(self._client.post("/api/generate", json=body))
            for answer in await asyncio.gather(*answers):
                answer.raise_for_status()

    async def _customer(self) -> None:
        while self._left() > 0:
            await self._open.wait()
            self._running += 1
            self.tally.started += 1
            try:
                self.tally.ended[await self._request()] += 1
            except Exception as error:
                self.tally.lost.append(f"{type(error).__name__}: {error}")
            finally:
                self._running -= 1

    async def _request(self) -> str:
        """One request of any kind; returns how it ended, raises when that is not how it should."""
        if self._random.random() < 0.1:
            return await self._wrong_request()
        path, body = self._body()
        patience = self._random.expovariate(1.0) if self._random.random() < 0.3 else None
        try:
            async with asyncio.timeout(patience):
                await (self._streamed if body["stream"] else self._whole)(path, body)
        except TimeoutError:
            if patience is None:
                raise
            return "left"
        return "done"

    async def _wrong_request(self) -> str:
        path, content, status = self._random.choice(WRONG)
        answer = await self._client.post(path, content=content)
        if answer.status_code != status or "error" not in answer.json():
            raise ValueError(f"{content[:60]!r} was answered {answer.status_code}: {answer.text[:200]}")
        return "refused"

    async def _whole(self, path: str, body: dict[str, Any]) -> None:
        answer = await self._client.post(path, json=body)
        self._finish(answer.status_code, [answer.json()])

    async def _streamed(self, path: str, body: dict[str, Any]) -> None:
        async with self._client.stream("POST", path, json=body) as answer:
            self._finish(answer.status_code, [json.loads(line) async for line in answer.aiter_lines()])

    def _finish(self, status: int, lines: list[dict[str, Any]]) -> None:
        if status != 200 or [line.get("done") for line in lines].count(True) != 1 or not lines[-1]["done"]:
            raise ValueError(f"{status}, {len(lines)} lines, the last: {lines[-1:]}")
        self.tally.tokens += lines[-1].get("eval_count", 0)

    def _body(self) -> tuple[str, dict[str, Any]]:
        pick = self._random
        model = pick.choices((MAIN, COPY, TINY), (8, 3, 1))[0]
        body: dict[str, Any] = {"model": model, "stream": pick.random() < 0.5, "keep_alive": -1}
        if model == TINY and pick.random() < 0.3:
            body["keep_alive"] = 0
        if pick.random() < 0.2:
            body["format"] = pick.choice(["json", SCHEMA])
        body["options"] = {
            "num_predict": pick.randint(1, 100),
            "temperature": pick.choice([0.0, 0.8]),
            "seed": pick.randrange(1000),
        }
        most = 40 if model == TINY else 1000
        text = self._words(most if pick.random() < 0.1 else pick.randint(1, 40), f"{pick.random()} ")
        if pick.random() < 0.5:
            return "/api/generate", body | {"prompt": text}
        system = [{"role": "system", "content": pick.choice(SYSTEMS)}] if model != TINY and pick.random() < 0.7 else []
        return "/api/chat", body | {"messages": [*system, {"role": "user", "content": text}]}

    def _words(self, count: int, start: str) -> str:
        return start + " ".join(self._random.choices(WORDS, k=count))

    async def _census(self) -> None:
        """Let what runs end, unload the tiny model, and take the memory."""
        self._open.clear()
        while self._running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self._client.post("/api/generate", json={"model": TINY, "keep_alive": 0})
        while any(model["name"].startswith(TINY) for model in await self._models()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        cache = sum(model["prefix_cache"]["bytes"] for model in await self._models())
        memory = psutil.Process(self._server.process.pid).memory_full_info()
        at_s = time.monotonic() - self._start_s
        self.samples.append(Sample(at_s, getattr(memory, "pss", memory.rss), cache))
        self._open.set()

    async def _models(self) -> list[dict[str, Any]]:
        answer = await self._client.get("/api/stats")
        models: list[dict[str, Any]] = answer.json()["models"]
        return models

    async def _held(self) -> list[str]:
        """What is still held though no request is left. A client that left is noticed a chunk later, so wait."""
        deadline = time.monotonic() + 30
        while True:
            held = [m["name"] for m in await self._models() if m["slots"]["busy"] or m["waiting"] or m["queue"]]
            if not held or time.monotonic() > deadline:
                return [f"{name} still holds slots or waiting requests" for name in held]
            await asyncio.sleep(0.1)


def memory_growth(samples: list[Sample]) -> float | None:
    """By how much the last quarter's median exceeds the second's, as a fraction; None for fewer than 8 samples."""
    quarter = len(samples) // 4
    if quarter < 2:
        return None
    sizes = [sample.rest for sample in samples]
    second, last = statistics.median(sizes[quarter : 2 * quarter]), statistics.median(sizes[-quarter:])
    return last / second - 1


def soak(model: Path, seconds: float, seed: int) -> tuple[Soak, list[str]]:
    """Run against a server with a store of its own."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        server = Server(
            Path(folder) / "models",
            OLLAMA_NUM_PARALLEL=str(SLOTS),
            OLLAMA_CONTEXT_LENGTH=str(CONTEXT_TOKENS),
            APPLIANCE_PREFIX_CACHE_BYTES=str(PREFIX_CACHE_BYTES),
        )
        server.start()
        try:
            server.create(MAIN, model)
            server.create(TINY, write_tiny_gguf(Path(folder) / "tiny.gguf", context_length=CONTEXT_TOKENS))
            server.client.post("/api/copy", json={"source": MAIN, "destination": COPY}).raise_for_status()
            run = Soak(server, seconds, seed)
            return run, asyncio.run(run.run())
        finally:
            server.stop()


def table(run: Soak) -> Table:
    """The figures for people."""
    shown = Table("what", "value", title="Soak")
    tally, growth = run.tally, memory_growth(run.samples)
    shown.add_row("requests", f"{tally.started:,}")
    for end, count in sorted(tally.ended.items()):
        shown.add_row(f"  {end}", f"{count:,}")
    shown.add_row("  lost", f"{len(tally.lost):,}")
    shown.add_row("tokens generated", f"{tally.tokens:,}")
    if run.samples:
        rest = [sample.rest / 1e6 for sample in run.samples]
        shown.add_row("memory at rest, MB", f"{rest[0]:.1f} … {rest[-1]:.1f} ({min(rest):.1f}–{max(rest):.1f})")
    shown.add_row("growth, last quarter to second", "too few samples" if growth is None else f"{growth:+.2%}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="how long, after the warm-up (default: 60)")
    parser.add_argument("--short", action="store_const", dest="minutes", const=10, help="ten minutes")
    parser.add_argument("--model", type=Path, help="a GGUF file (default: the default model, fetched once)")
    parser.add_argument("--seed", type=int, default=0, help="of the random load (default: 0)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    run, failures = soak(arguments.model or model_path(), arguments.minutes * 60, arguments.seed)
    console = Console()
    console.print(table(run))
    for reason, count in Counter(run.tally.lost).most_common(10):
        console.print(f"lost {count} times: {reason}", markup=False)
    if arguments.json:
        figures = {
            "minutes": arguments.minutes,
            "seed": arguments.seed,
            "requests": run.tally.started,
            "ended": dict(run.tally.ended),
            "lost": run.tally.lost,
            "tokens": run.tally.tokens,
            "samples": [asdict(sample) for sample in run.samples],
            "memory_growth": memory_growth(run.samples),
            "failures": failures,
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    console.print("; ".join(failures) or "nothing leaked, nothing was lost", markup=False)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
