"""sentence-transformers in a process of its own: prints the figures of one run as JSON. Started by embed.py.

It may run in another environment than the appliance's and therefore imports nothing of the suite.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from sentence_transformers import SentenceTransformer


def main() -> None:
    """Load, warm up, measure."""
    parser = argparse.ArgumentParser(description="One run of sentence-transformers.")
    parser.add_argument("folder")
    parser.add_argument("texts", help="a JSON list")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--limit", type=int, required=True, help="tokens of a text, special ones included")
    parser.add_argument("--batch", type=int, required=True, help="texts in a batch")
    args = parser.parse_args()
    with open(args.texts, encoding="utf-8") as file:
        texts = json.load(file)
    torch.set_num_threads(args.threads)
    model = SentenceTransformer(args.folder, device="cpu")
    model.max_seq_length = args.limit
    encode = {"batch_size": args.batch, "normalize_embeddings": True, "show_progress_bar": False}
    model.encode(texts[: args.batch], **encode)
    started = time.perf_counter()
    model.encode(texts, **encode)
    print(json.dumps({"sentences/s": len(texts) / (time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
