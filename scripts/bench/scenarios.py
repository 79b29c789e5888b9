"""The scenarios by name, and the loop that runs one round by round."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scripts.bench import convert, crowd, documents, embed, memory, prefix, single, start
from scripts.bench.bench import Bench
from scripts.bench.core import Case, Metric, Round


@dataclass(frozen=True, slots=True)
class Scenario:
    """A family of cases. `line` names the metric that is drawn as a line over the numbers in the cases' names."""

    about: str
    metrics: Callable[[Bench], tuple[Metric, ...]]
    cases: Callable[[Bench], list[Case]]
    line: str = ""


def _always(metrics: tuple[Metric, ...]) -> Callable[[Bench], tuple[Metric, ...]]:
    return lambda bench: metrics


EMBED = "embed"
"""The scenario that has a model of its own."""
SCENARIOS = {
    "single": Scenario(
        "one stream in a process: decode, prefill, load, peak memory",
        lambda bench: single.metrics(bench.sizes),
        single.cases,
    ),
    "depth": Scenario(
        "decode with a long context behind it", _always(single.DEPTH_METRICS), single.depth_cases, line="decode"
    ),
    "clients": Scenario(
        "1 to 16 clients at once over HTTP", _always(crowd.CLIENTS_METRICS), crowd.clients_cases, line="total"
    ),
    "stall": Scenario("a long prompt arrives beside streams", _always(crowd.STALL_METRICS), crowd.stall_cases),
    "prefix": Scenario("a chat's second turn, a system prompt's second user", _always(prefix.METRICS), prefix.cases),
    "json": Scenario("JSON documents under a schema of ten fields", _always(documents.METRICS), documents.cases),
    "memory": Scenario(
        "resident memory of the servers, loaded and with full slots", _always(memory.METRICS), memory.cases
    ),
    "convert": Scenario("converting the model: time and peak memory", _always(convert.METRICS), convert.cases),
    "load": Scenario("from a server's start to its first token, warm and cold", _always(start.METRICS), start.cases),
    EMBED: Scenario("texts of 10 to 200 words to vectors, with an encoder", _always(embed.METRICS), embed.cases),
}


def rounds(name: str, bench: Bench, count: int) -> Iterator[Round]:
    """Run a scenario `count` times. Who goes first changes from round to round."""
    cases = [case for case in SCENARIOS[name].cases(bench) if not case.name or case.name in (bench.case or case.name,)]
    if not cases:
        named = ", ".join(case.name for case in SCENARIOS[name].cases(bench))
        raise RuntimeError(f"{name} has no case {bench.case!r}; there are {named}")
    for number in range(count):
        result: Round = {}
        for case in cases:
            contestants = list(case.contestants.items())
            for who, run in contestants if number % 2 == 0 else reversed(contestants):
                what = " ".join(filter(None, (name, case.name)))
                load = os.getloadavg()[0]
                print(f"round {number + 1} of {count}: {what}, {who} (load {load:.1f})", file=sys.stderr, flush=True)
                result.setdefault(case.name, {})[who] = run()
            result[case.name] = {who: result[case.name][who] for who in case.contestants}
        yield result
