"""JSON documents under a schema of ten fields: from the request to the finished document."""

from __future__ import annotations

import json
from typing import Any

from scripts.bench.bench import Bench
from scripts.bench.client import Answer
from scripts.bench.core import Case, Figures, Metric
from scripts.bench.dialects import Ask, user
from scripts.bench.servers import Server
from scripts.bench.stats import percentile

SLOTS, CONTEXT = 4, 4096
MOST_TOKENS = 512
TEMPERATURE = 0.8
"""Sampled whatever the other scenarios do, so that every seed writes a document of its own."""
LONGEST = 20
INTEGERS = ("age", "height", "weight", "floor", "salary")
STRINGS = ("name", "street", "city", "job", "hobby")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{name: {"type": "integer"} for name in INTEGERS},
        **{name: {"type": "string", "maxLength": LONGEST} for name in STRINGS},
    },
    "required": [*INTEGERS, *STRINGS],
    "additionalProperties": False,
}
PEOPLE = (
    "a doctor in a small town",
    "a fisherman on an island",
    "a teacher of music",
    "an engineer who builds bridges",
)
METRICS = (
    Metric("time to the document, median", "ms", "less"),
    Metric("tokens of a document", "", digits=0),
    Metric("tokens/s", "", "more"),
    Metric("valid", "%"),
)


def cases(bench: Bench) -> list[Case]:
    """One case; one client, one document after the other."""
    return [bench.served("", SLOTS, CONTEXT, lambda server: documents(bench, server))]


def documents(bench: Bench, server: Server) -> Figures:
    """Every person several times, after one document that makes the schema known.

    Seeds make the documents the same in every round; with them our server guesses no tokens ahead.
    """
    asks = [
        Ask(
            (user(f"Describe {PEOPLE[at % len(PEOPLE)]} as a JSON object with the fields {', '.join(fields())}."),),
            MOST_TOKENS,
            seed=None if bench.speculate else 1 + at // len(PEOPLE),
            temperature=TEMPERATURE,
            schema=SCHEMA,
        )
        for at in range(bench.sizes.documents)
    ]
    server.ask([asks[-1]])
    answers = server.ask(asks)
    seconds = [answer.end - answer.sent for answer in answers]
    return {
        "time to the document, median": percentile(seconds, 0.5) * 1e3,
        "tokens of a document": percentile([answer.tokens for answer in answers], 0.5),
        "tokens/s": sum(answer.tokens for answer in answers) / sum(seconds),
        "valid": 100 * sum(map(valid, answers)) / len(answers),
    }


def fields() -> tuple[str, ...]:
    """The names of all fields, in the schema's order."""
    return (*INTEGERS, *STRINGS)


def valid(answer: Answer) -> bool:
    """Whether the document keeps to the schema."""
    try:
        document = json.loads(answer.text)
    except ValueError:
        return False
    return (
        isinstance(document, dict)
        and sorted(document) == sorted(fields())
        and all(type(document[name]) is int for name in INTEGERS)
        and all(isinstance(document[name], str) and len(document[name]) <= LONGEST for name in STRINGS)
    )
