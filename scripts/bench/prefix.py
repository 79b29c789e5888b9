"""Prompts that begin like earlier ones: the second turn of a chat, the second user of a system prompt."""

from __future__ import annotations

from scripts.bench.bench import Bench
from scripts.bench.client import Answer
from scripts.bench.core import Case, Figures, Metric
from scripts.bench.dialects import Ask, Message, assistant, system, user
from scripts.bench.servers import Server
from scripts.bench.stats import percentile

SLOTS, CONTEXT = 4, 4096
ANSWER_TOKENS = 32
PATIENCE_STEPS = 1.5
"""Decode steps that a warm prompt may take on top of reading what is new in it."""
METRICS = (
    Metric("first token, cold", "ms", "less"),
    Metric("first token, second turn", "ms", "less"),
    Metric("first token, second user", "ms", "less"),
    Metric("decode step", "ms", "less", 2),
    Metric("reading a prompt of only the new tokens", "ms", "less", 1),
    Metric("new tokens of the second turn", ""),
    Metric("1.5 steps and a prompt of the new tokens", "ms", digits=1),
    Metric("second turn's share of it", "", digits=2),
    Metric("second user's share of it", "", digits=2),
    Metric("reading the new tokens behind the history", "ms", "less", 1),
    Metric("second turn, steps beside reading", "", "less", 2),
    Metric("second user, steps beside reading", "", "less", 2),
)


def cases(bench: Bench) -> list[Case]:
    """One case; one client, one request at a time."""
    return [bench.served("", SLOTS, CONTEXT, lambda server: prefix(bench, server), prompt=bench.sizes.history)]


def prefix(bench: Bench, server: Server) -> Figures:
    """A conversation of two turns, and two users of one system prompt, each with a history nobody has seen."""
    words = bench.prompts.words
    first = (user(bench.prompts.of(bench.sizes.history)),)
    cold = say(bench, server, first)
    follow_up = user(f"Why the {words(3)}?")
    second = say(bench, server, (*first, assistant(cold.text), follow_up))

    rules = system(bench.prompts.of(bench.sizes.history))
    say(bench, server, (rules, user(f"Tell me about the {words(3)}.")))
    neighbour = say(bench, server, (rules, user(f"Why the {words(3)}?")))

    # A prompt that brings about as many new tokens as the second turn did, after a beginning that every chat shares:
    # how long the server itself says that reading them takes.
    new = second.prompt_tokens - cold.prompt_tokens - cold.tokens
    short = [say(bench, server, (user(f"Why the {words(3)}?"),)).prefill_s for _ in range(3)]
    step = percentile(second.gaps_s, 0.5)
    bar = PATIENCE_STEPS * step + percentile(short, 0.5)
    return {
        "first token, cold": cold.first_s * 1e3,
        "first token, second turn": second.first_s * 1e3,
        "first token, second user": neighbour.first_s * 1e3,
        "decode step": step * 1e3,
        "reading a prompt of only the new tokens": percentile(short, 0.5) * 1e3,
        "new tokens of the second turn": new,
        "1.5 steps and a prompt of the new tokens": bar * 1e3,
        "second turn's share of it": second.first_s / bar,
        "second user's share of it": neighbour.first_s / bar,
        "reading the new tokens behind the history": second.prefill_s * 1e3,
        "second turn, steps beside reading": (second.first_s - second.prefill_s) / step,
        "second user, steps beside reading": (neighbour.first_s - neighbour.prefill_s) / step,
    }


def say(bench: Bench, server: Server, messages: tuple[Message, ...]) -> Answer:
    """One short answer."""
    return server.ask([Ask(messages, ANSWER_TOKENS, temperature=bench.temperature)])[0]
