"""Our encoder in a process of its own: prints the figures of one run as JSON. Started by embed.py."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from appliance.bundle import read_description
from appliance.embedding import normalised
from appliance.engine.encoder import Encoder, Vectors, open_encoder
from appliance.prompt.tokenizer import Tokenizer

WARM_UP_TEXTS = 32


def main() -> None:
    """Load, warm up, measure."""
    parser = argparse.ArgumentParser(description="One run of the encoder.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("texts", type=Path, help="a JSON list")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--limit", type=int, required=True, help="tokens of a text, special ones included")
    args = parser.parse_args()
    texts = json.loads(args.texts.read_text(encoding="utf-8"))
    bundle = read_description(args.bundle)
    if bundle.kind != "encoder":
        parser.error(f"the model is a {bundle.kind}, not an encoder")
    tokenizer = Tokenizer.load(args.bundle, bundle)
    encoder = open_encoder(args.bundle, bundle, setting="cpu", threads=args.threads)
    limit = min(args.limit, encoder.max_tokens)
    try:
        embed(tokenizer, encoder, texts[:WARM_UP_TEXTS], limit)
        started = time.perf_counter()
        embed(tokenizer, encoder, texts, limit)
        seconds = time.perf_counter() - started
    finally:
        encoder.close()
    print(json.dumps({"sentences/s": len(texts) / seconds}))


def embed(tokenizer: Tokenizer, encoder: Encoder, texts: Sequence[str], limit: int) -> Vectors:
    """The texts' vectors [N,D] of length 1."""
    return normalised(encoder.encode([tokenizer.encode_input(text, limit).ids for text in texts]))


if __name__ == "__main__":
    main()
