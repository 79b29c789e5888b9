"""Our engine in a process of its own: prints the figures of one run as JSON. Started by single.py."""

from __future__ import annotations

import argparse
import json
import queue
import random
import time
from pathlib import Path
from typing import Any

from appliance.bundle import Bundle, read_description
from appliance.core import Request, SamplingParams, Usage
from appliance.engine import providers
from appliance.engine.engine import Engine
from appliance.engine.ort import OrtBackend
from appliance.prompt.tokenizer import Tokenizer

CHUNK_TOKENS = 256
PLAIN_TOKENS = 1000
"""Ids at either end of the vocabulary that are not drawn: control tokens lie there."""


def main() -> None:
    """Load, warm up, measure."""
    parser = argparse.ArgumentParser(description="One run of the engine.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--started", type=float, required=True, help="time.time() of the start of the process")
    parser.add_argument("--decode", type=int, required=True)
    parser.add_argument("--speculate", action="store_true")
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--prefills", type=int, nargs="*", default=[])
    args = parser.parse_args()
    bundle = read_description(args.bundle)
    tokenizer = Tokenizer.load(args.bundle, bundle)
    backend = OrtBackend(args.bundle, bundle, slots=1, provider=providers.CPU, threads=args.threads)
    engine = Engine(
        backend,
        tokenizer,
        eos=(),
        chunk_tokens=CHUNK_TOKENS,
        max_waiting=1,
        speculate="on" if args.speculate else "off",
    )
    try:
        timed(engine, bundle, 1, 1)
        figures = {"load": time.time() - args.started}
        timed(engine, bundle, 64, 8)  # warm up, as llama-bench does
        usage = timed(engine, bundle, args.depth + 1, args.decode + 1)
        figures["decode"] = args.decode / usage.generate_ns * 1e9
        for prompt in args.prefills:
            figures[f"prefill {prompt}"] = prompt / timed(engine, bundle, prompt, 1).prompt_ns * 1e9
    finally:
        engine.close()
    print(json.dumps(figures))


def timed(engine: Engine, bundle: Bundle, prompt: int, predict: int) -> Usage:
    """The usage of a request with a prompt of random tokens."""
    edge = min(PLAIN_TOKENS, bundle.vocab_size // 4)
    tokens = tuple(random.randrange(edge, bundle.vocab_size - edge) for _ in range(prompt))
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    engine.submit(Request(tokens, SamplingParams(temperature=0, num_predict=predict), bundle.context_length), inbox.put)
    while True:
        chunk = inbox.get()
        if isinstance(chunk, Exception):
            raise chunk
        if chunk.usage:
            usage: Usage = chunk.usage
            return usage


if __name__ == "__main__":
    main()
