"""`scripts/bench/run`: run scenarios, print a table for each, write JSON and a picture."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance.bundle import KV_TYPES, RECIPES
from scripts.bench import machine
from scripts.bench.bench import Bench, default_model
from scripts.bench.core import TRIAL, Round, Sizes
from scripts.bench.scenarios import SCENARIOS, rounds
from scripts.bench.stats import Line, lines
from scripts.bench.svg import picture
from scripts.bench.table import table

BINARIES = ("llama-bench", "llama-server")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    listed = "\n".join(f"  {name:9}{scenario.about}" for name, scenario in SCENARIOS.items())
    result = argparse.ArgumentParser(
        prog="scripts/bench/run",
        description="Measure the appliance, beside llama.cpp and onnxruntime-genai where they are given.",
        epilog=f"scenarios:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="what to measure (default: everything)")
    result.add_argument("--model", type=existing, metavar="GGUF", help="the model (default: the default model)")
    result.add_argument("--recipe", choices=RECIPES, default="exact", help="how it is converted (default: exact)")
    result.add_argument("--kv", choices=KV_TYPES, default="f32", help="our KV cache (default: f32)")
    result.add_argument("--case", metavar="NAME", help="of several cases only this, such as '8 clients'")
    result.add_argument("--rounds", type=positive, default=5, metavar="N", help="rounds (default: 5)")
    result.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), metavar="N")
    result.add_argument("--temperature", type=float, default=0.0, help="of what clients ask (default: 0)")
    result.add_argument("--speculate", action="store_true", help="let our engine guess tokens ahead")
    result.add_argument("--llama", type=existing, metavar="FOLDER", help=f"llama.cpp's {' and '.join(BINARIES)}")
    result.add_argument("--llama-model", type=existing, metavar="GGUF", help="what llama.cpp runs (default: the model)")
    result.add_argument("--genai", type=existing, metavar="FOLDER", help="a model for onnxruntime-genai")
    result.add_argument("--genai-source", type=existing, metavar="FOLDER", help="a Hugging Face folder for its builder")
    result.add_argument("--genai-python", default=sys.executable, metavar="PYTHON", help="which has onnxruntime-genai")
    result.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    result.add_argument("--svg", type=Path, metavar="FILE", help="write a picture here")
    result.add_argument("--trial", action="store_true", help="tiny counts, to try the suite; the figures mean nothing")
    return result


def existing(text: str) -> Path:
    """A path that is there."""
    path = Path(text).expanduser()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return path.absolute()


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Checked arguments; leaves with a usage message when something is wrong."""
    given = parser()
    args = given.parse_args(arguments)
    for name in args.scenarios:
        if name not in SCENARIOS:
            given.error(f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    args.scenarios = list(dict.fromkeys(args.scenarios)) or list(SCENARIOS)
    if args.llama_model and not args.llama:
        given.error("--llama-model needs --llama")
    for binary in BINARIES:
        if args.llama and not (args.llama / binary).is_file():
            given.error(f"there is no {binary} in {args.llama}")
    return args


def main() -> None:
    """Run what was asked for. What is measured by then is written even when a later scenario fails."""
    args = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that servers are ended on the way out
    measured: dict[str, list[Round]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        bench = Bench(
            model=args.model or default_model(),
            work=Path(work),
            recipe=args.recipe,
            kv=args.kv,
            threads=args.threads,
            llama=args.llama,
            llama_model=args.llama_model,
            genai=args.genai,
            genai_source=args.genai_source,
            genai_python=args.genai_python,
            sizes=TRIAL if args.trial else Sizes(),
            temperature=args.temperature,
            speculate=args.speculate,
            case=args.case,
        )
        (bench.work / "models").mkdir()
        try:
            for name in args.scenarios:
                measured[name] = []
                for each in rounds(name, bench, args.rounds):
                    measured[name].append(each)
        except RuntimeError as error:
            sys.exit(f"Error: {error}")
        finally:
            report(bench, args, measured)


def report(bench: Bench, args: argparse.Namespace, measured: dict[str, list[Round]]) -> None:
    """Tables on standard output, and the files that were asked for."""
    facts = machine.facts(bench.llama, bench.threads)
    results = {name: lines(SCENARIOS[name].metrics(bench), each) for name, each in measured.items() if each}
    peer = f" beside {bench.peer_model.name}" if bench.llama and bench.llama_model else ""
    ours = f"{bench.model.name}, {bench.recipe}, KV cache {bench.kv}{', speculating' if bench.speculate else ''}"
    title = f"{ours}{peer}; {facts['cpu']}, {bench.threads} threads"
    print(title)
    for name, found in results.items():
        print(f"\n{name}: {SCENARIOS[name].about}; median (range) of {len(measured[name])}\n\n{table(found)}")
    if args.json:
        args.json.write_text(json.dumps(record(bench, args, facts, measured, results), indent=2) + "\n")
    if args.svg:
        args.svg.write_text(picture(title, results, {name: each.line for name, each in SCENARIOS.items()}))


def record(
    bench: Bench,
    args: argparse.Namespace,
    facts: dict[str, Any],
    measured: dict[str, list[Round]],
    results: dict[str, list[Line]],
) -> dict[str, Any]:
    """Everything there is to know, for the JSON file."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "settings": {
            "model": bench.model.name,
            "peer_model": bench.peer_model.name,
            "recipe": bench.recipe,
            "kv": bench.kv,
            "temperature": bench.temperature,
            "speculate": bench.speculate,
            "rounds": args.rounds,
            "sizes": asdict(bench.sizes),
        },
        "scenarios": {
            name: {"rounds": measured[name], "summary": [asdict(line) for line in found]}
            for name, found in results.items()
        },
    }


if __name__ == "__main__":
    main()
