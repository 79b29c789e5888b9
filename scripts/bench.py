"""Decode and prefill speed, memory and load time of the engine, beside llama.cpp on the same file.

Every round runs us and then the peer, each in a process of its own, so that a machine that grows slower or
faster meets both. Figures are medians over the rounds, ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PREFILLS = (64, 512, 2048)
ROWS = [("decode", "tokens/s"), *((f"prefill {n}", "tokens/s") for n in PREFILLS)]
ROWS += [("load", "s"), ("memory", "MB")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a GGUF file (default: the default model)")
    parser.add_argument("--peer", type=Path, help="path to llama.cpp's llama-bench")
    parser.add_argument("--recipe", default="exact")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decode", type=int, default=128, help="tokens to decode")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        print(json.dumps(measure_engine(args.once, args.threads, args.decode, args.started)))
        return
    model = args.model or default_model()
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "bundle")
        subprocess.run(
            [sys.executable, "-m", "converters", str(model), "--out", str(bundle), "--recipe", args.recipe], check=True
        )
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
            figures = {"ours": run_ours(bundle, args)}
            if args.peer:
                figures["peer"] = run_peer(args.peer, model, args)
            rounds.append(figures)
    report(rounds)
    if args.json:
        args.json.write_text(json.dumps(rounds, indent=2) + "\n")


def default_model() -> Path:
    command = [sys.executable, "-m", "converters.default_model", str(Path("~/.cache/edge-appliance").expanduser())]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1])


def run_ours(bundle: Path, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--once", str(bundle), "--threads", str(args.threads)]
    out, memory = run([*command, "--decode", str(args.decode), "--started", str(time.time())])
    return {**json.loads(out), "memory": memory}


def run_peer(bench: Path, model: Path, args: argparse.Namespace) -> dict[str, float]:
    """llama-bench with flash attention; its own load time is the wall time of a run that does nothing else."""
    base = [str(bench), "-m", str(model), "-t", str(args.threads), "-r", "1", "-fa", "1", "-o", "json"]
    started = time.perf_counter()
    run([*base, "-p", "1", "-n", "0", "--no-warmup"])
    load = time.perf_counter() - started
    out, memory = run([*base, "-p", ",".join(map(str, PREFILLS)), "-n", str(args.decode)])
    figures = {"load": load, "memory": memory}
    for result in json.loads(out):
        figures[f"prefill {result['n_prompt']}" if result["n_prompt"] else "decode"] = result["avg_ts"]
    return figures


def run(command: list[str]) -> tuple[str, float]:
    """The command's output and its peak resident memory in MB."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{command[0]} ended with status {process.returncode}")
        out.seek(0)
        return out.read(), usage.ru_maxrss / 1024


def measure_engine(folder: Path, threads: int, decode: int, started: float) -> dict[str, float]:
    """One process's figures: from its start to the first token, then decode and prefill through the engine."""
    import random

    from appliance.bundle import read_description
    from appliance.core import Request, SamplingParams
    from appliance.engine import providers
    from appliance.engine.engine import Engine
    from appliance.engine.ort import OrtBackend
    from appliance.prompt.tokenizer import Tokenizer

    bundle = read_description(folder)
    backend = OrtBackend(folder, bundle, slots=1, provider=providers.CPU, threads=threads)
    engine = Engine(backend, Tokenizer.load(folder, bundle), eos=(), chunk_tokens=512, max_waiting=1)

    def timed(prompt: int, predict: int) -> Any:
        tokens = tuple(random.randrange(1000, bundle.vocab_size - 1000) for _ in range(prompt))
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        sampling = SamplingParams(temperature=0, num_predict=predict)
        engine.submit(Request(tokens, sampling, bundle.context_length), inbox.put)
        while True:
            chunk = inbox.get()
            if isinstance(chunk, Exception):
                raise chunk
            if chunk.usage:
                return chunk.usage

    timed(1, 1)
    figures = {"load": time.time() - started}
    timed(64, 8)  # warm up, as llama-bench does
    usage = timed(1, decode + 1)
    figures["decode"] = decode / usage.generate_ns * 1e9
    for prompt in PREFILLS:
        figures[f"prefill {prompt}"] = prompt / timed(prompt, 1).prompt_ns * 1e9
    engine.close()
    return figures


def report(rounds: list[dict[str, dict[str, float]]]) -> None:
    """Print medians (min-max) and ratios ours/theirs."""
    print(f"{'':14}{'ours':>26}{'llama.cpp':>26}{'ratio':>8}")
    for name, unit in ROWS:
        cells = []
        for who in ("ours", "peer"):
            values = [figures[who][name] for figures in rounds if who in figures]
            digits = 2 if unit == "s" else 0
            low_high = f"({min(values):.{digits}f}-{max(values):.{digits}f})" if values else ""
            cells.append(f"{statistics.median(values):.{digits}f} {low_high} {unit}" if values else "-")
        pairs = [figures["ours"][name] / figures["peer"][name] for figures in rounds if "peer" in figures]
        ratio = f"{statistics.median(pairs):.2f}" if pairs else "-"
        print(f"{name:14}{cells[0]:>26}{cells[1]:>26}{ratio:>8}")


if __name__ == "__main__":
    main()
