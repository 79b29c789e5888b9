"""onnxruntime-genai in a process of its own: prints the figures of one run as JSON. Started by single.py.

It may run in another environment than the appliance's and therefore imports nothing of the suite. Threads are what
the model folder's genai_config.json says, overlaid with ours.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import Any

import onnxruntime_genai as genai  # type: ignore[import-not-found, import-untyped, unused-ignore]

PLAIN_TOKENS = 1000


def main() -> None:
    """Load, warm up, measure."""
    parser = argparse.ArgumentParser(description="One run of onnxruntime-genai.")
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--started", type=float, required=True, help="time.time() of the start of the process")
    parser.add_argument("--decode", type=int, required=True)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--prefills", type=int, nargs="*", default=[])
    args = parser.parse_args()
    with open(f"{args.folder}/genai_config.json", encoding="utf-8") as file:
        vocab_size = json.load(file)["model"]["vocab_size"]
    config = genai.Config(args.folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": args.threads}}}}))
    model = genai.Model(config)
    timed(model, vocab_size, 1, 1)
    figures = {"load": time.time() - args.started}
    timed(model, vocab_size, 64, 8)
    _, decode_s = timed(model, vocab_size, args.depth + 1, args.decode + 1)
    figures["decode"] = args.decode / decode_s
    for prompt in args.prefills:
        figures[f"prefill {prompt}"] = prompt / timed(model, vocab_size, prompt, 1)[0]
    print(json.dumps(figures))


def timed(model: Any, vocab_size: int, prompt: int, predict: int) -> tuple[float, float]:
    """Seconds until the first token after a prompt of random tokens, and from there to the last one."""
    params = genai.GeneratorParams(model)
    length = prompt + predict
    params.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = genai.Generator(model, params)
    edge = min(PLAIN_TOKENS, vocab_size // 4)
    started = time.perf_counter()
    generator.append_tokens([random.randrange(edge, vocab_size - edge) for _ in range(prompt)])
    generator.generate_next_token()
    first = time.perf_counter()
    for _ in range(predict - 1):
        generator.generate_next_token()
    return first - started, time.perf_counter() - first


if __name__ == "__main__":
    main()
