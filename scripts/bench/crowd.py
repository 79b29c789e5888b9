"""Clients over HTTP: many at once, and what a long prompt does to those that are being answered."""

from __future__ import annotations

import asyncio
import time

from scripts.bench.bench import Bench
from scripts.bench.client import Answer, Exchange, read, run, send
from scripts.bench.core import Case, Figures, Metric
from scripts.bench.dialects import Ask, user
from scripts.bench.servers import Server
from scripts.bench.stats import percentile

FEW = 4
CLIENTS_METRICS = (
    Metric("total", "tokens/s", "more"),
    Metric("first token, median", "ms", "less"),
    Metric("first token, 95 %", "ms", "less"),
    Metric("gap between tokens, median", "ms", "less", 1),
    Metric("gap between tokens, 99 %", "ms", "less"),
    Metric("tokens in an answer", "", digits=0),
    Metric("the client's share of a core", "%", digits=1),
)


def clients_cases(bench: Bench) -> list[Case]:
    """A case for each number of clients, with as many slots; 4,096 tokens a slot for few, 2,048 for many."""

    def case(count: int) -> Case:
        context = 4096 if count <= FEW else 2048
        name = f"{count} client{'s' if count > 1 else ''}"
        return bench.served(
            name, count, context, lambda server: clients(bench, server, count), prompt=bench.sizes.prompt
        )

    return [case(count) for count in bench.sizes.clients]


def clients(bench: Bench, server: Server, count: int) -> Figures:
    """All clients ask at the same moment, each something else."""
    each = max(1, bench.sizes.requests // count)
    asks = [[question(bench, bench.sizes.prompt, bench.sizes.answer) for _ in range(each)] for _ in range(count)]
    cpu, wall = time.process_time(), time.perf_counter()
    answers = server.ask(*asks)
    # Reading the answers afterwards is in it too, so the share is an upper bound.
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
    return {**summary(answers), "the client's share of a core": 100 * busy}


def summary(answers: list[Answer]) -> Figures:
    """The figures of answers that were given together."""
    firsts = [answer.first_s * 1e3 for answer in answers]
    gaps = [gap * 1e3 for answer in answers for gap in answer.gaps_s]
    elapsed = max(answer.end for answer in answers) - min(answer.sent for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    return {
        "total": tokens / elapsed,
        "first token, median": percentile(firsts, 0.5),
        "first token, 95 %": percentile(firsts, 0.95),
        "gap between tokens, median": percentile(gaps, 0.5),
        "gap between tokens, 99 %": percentile(gaps, 0.99),
        "tokens in an answer": tokens / len(answers),
    }


def question(bench: Bench, prompt: int, answer: int) -> Ask:
    """A prompt that nobody has seen."""
    return Ask((user(bench.prompts.of(prompt)),), answer, temperature=bench.temperature)


STALL_METRICS = (
    Metric("longest gap of a stream", "ms", "less"),
    Metric("median gap meanwhile", "ms", "less", 1),
    Metric("longest gap before", "ms", "less"),
    Metric("first token of the long prompt", "ms", "less"),
    Metric("streams to its end", ""),
)
SETTLED_PIECES = 16
AFTERMATH_S = 0.5


def stall_cases(bench: Bench) -> list[Case]:
    """Streams in all slots but one, which the long prompt takes."""
    sizes = bench.sizes
    context = min(bench.context, 8192)
    return [
        bench.served(
            "", sizes.streams + 1, context, lambda server: stall(bench, server, context), prompt=sizes.long_prompt
        )
    ]


def stall(bench: Bench, server: Server, context: int) -> Figures:
    """The longest wait of streams while a long prompt is read. Raises RuntimeError when no stream lives to see it."""
    streams, long = run(beside(bench, server, context))
    answer = read(long, server.dialect)
    running = [read(stream, server.dialect, whole=False) for stream in streams]
    meanwhile = [gap for each in running for gap in gaps_within(each, long.sent, answer.first)]
    begun = max(each.pieces[0] for each in running)
    before = [gap for each in running for gap in gaps_within(each, begun, long.sent, whole=True)]
    survivors = sum(1 for each in running if each.pieces[-1] >= answer.first)
    if not meanwhile or not before:
        raise RuntimeError("all streams ended before the long prompt was read")
    return {
        "longest gap of a stream": max(meanwhile) * 1e3,
        "median gap meanwhile": percentile(meanwhile, 0.5) * 1e3,
        "longest gap before": max(before) * 1e3,
        "first token of the long prompt": answer.first_s * 1e3,
        "streams to its end": survivors,
    }


async def beside(bench: Bench, server: Server, context: int) -> tuple[list[Exchange], Exchange]:
    """Start streams, wait until all run, send the long prompt, leave when it is answered."""
    story = "Write a very long and detailed story about a lighthouse keeper who finds a map. Describe every room."
    asks = [
        Ask((user(f"{story} {bench.prompts.words(4)}"),), context - 256, temperature=bench.temperature)
        for _ in range(bench.sizes.streams)
    ]
    streams = [await send(server.url, server.dialect, each) for each in asks]
    while any(len(stream.arrivals) < SETTLED_PIECES for stream in streams):
        if any(stream.closed.done() for stream in streams):
            raise RuntimeError("a stream ended before the long prompt came")
        await asyncio.sleep(0.02)
    long = await send(server.url, server.dialect, question(bench, bench.sizes.long_prompt, SETTLED_PIECES))
    await long.closed
    await asyncio.sleep(AFTERMATH_S)
    for stream in streams:
        stream.abandon()
    return streams, long


def gaps_within(answer: Answer, start: float, end: float, *, whole: bool = False) -> list[float]:
    """Seconds between texts, for every gap that touches the time from `start` to `end`, or that lies `whole` in it."""
    pairs = zip(answer.pieces, answer.pieces[1:], strict=False)
    if whole:
        return [after - before for before, after in pairs if before >= start and after <= end]
    return [after - before for before, after in pairs if after > start and before < end]
