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

from appliance.bundle import ENCODER_RECIPES, KV_TYPES, RECIPES
from scripts.bench import machine
from scripts.bench.bench import Bench, default_model
from scripts.bench.core import TRIAL, Embedding, Round, Sizes
from scripts.bench.scenarios import EMBED, SCENARIOS, rounds
from scripts.bench.stats import Line, lines
from scripts.bench.svg import picture
from scripts.bench.table import table

BINARIES = ("llama-bench", "llama-server")
NEEDS = {"llama_model": "llama", "embed_gguf": "llama", "st_model": "st_python", "st_python": "embed_model"}
"""Options that mean something only beside another."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    listed = "\n".join(f"  {name:9}{scenario.about}" for name, scenario in SCENARIOS.items())
    result = argparse.ArgumentParser(
        prog="scripts/bench/run",
        description="Measure the appliance, beside llama.cpp and onnxruntime-genai where they are given.",
        epilog=f"scenarios:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="(default: all; embed with --embed-model)")
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
    result.add_argument("--embed-model", type=existing, metavar="PATH", help="an encoder: a GGUF file or a folder")
    result.add_argument("--embed-recipe", choices=ENCODER_RECIPES, default="int8", help="(default: int8)")
    result.add_argument("--embed-gguf", type=existing, metavar="GGUF", help="the encoder that llama.cpp runs")
    result.add_argument("--st-python", metavar="PYTHON", help="which has sentence-transformers")
    result.add_argument("--st-model", type=existing, metavar="FOLDER", help="its model (default: the encoder's folder)")
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
    named = list(dict.fromkeys(args.scenarios))
    args.scenarios = named or [name for name in SCENARIOS if name != EMBED or args.embed_model]
    for option, needed in NEEDS.items():
        if getattr(args, option) and not getattr(args, needed):
            given.error(f"--{option} needs --{needed}".replace("_", "-"))
    if EMBED in named and not args.embed_model:
        given.error("embed needs --embed-model")
    if args.st_python and not args.st_model:
        if not args.embed_model.is_dir():
            given.error("--st-python needs --st-model where --embed-model is no folder")
        args.st_model = args.embed_model
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
            model=args.model or (default_model() if decoders(args) else args.embed_model),
            work=Path(work),
            recipe=args.recipe,
            kv=args.kv,
            threads=args.threads,
            llama=args.llama,
            llama_model=args.llama_model,
            genai=args.genai,
            genai_source=args.genai_source,
            genai_python=args.genai_python,
            embedding=embedding(args),
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


def decoders(args: argparse.Namespace) -> bool:
    """Whether a scenario was asked for that runs the model, not an encoder."""
    return args.scenarios != [EMBED]


def embedding(args: argparse.Namespace) -> Embedding | None:
    """The models of the scenario that embeds."""
    if not args.embed_model:
        return None
    return Embedding(args.embed_model, args.embed_recipe, args.embed_gguf, args.st_python, args.st_model)


def report(bench: Bench, args: argparse.Namespace, measured: dict[str, list[Round]]) -> None:
    """Tables on standard output, and the files that were asked for."""
    facts = machine.facts(bench.llama, bench.threads)
    results = {name: lines(SCENARIOS[name].metrics(bench), each) for name, each in measured.items() if each}
    title = f"{' and '.join(models(bench, args))}; {facts['cpu']}, {bench.threads} threads"
    print(title)
    for name, found in results.items():
        print(f"\n{name}: {SCENARIOS[name].about}; median (range) of {len(measured[name])}\n\n{table(found)}")
    if args.json:
        args.json.write_text(json.dumps(record(bench, args, facts, measured, results), indent=2) + "\n")
    if args.svg:
        args.svg.write_text(picture(title, results, {name: each.line for name, each in SCENARIOS.items()}))


def models(bench: Bench, args: argparse.Namespace) -> list[str]:
    """What was run, for the title."""
    result = []
    if decoders(args):
        peer = f" beside {bench.peer_model.name}" if bench.llama and bench.llama_model else ""
        ours = f"{bench.model.name}, {bench.recipe}, KV cache {bench.kv}{', speculating' if bench.speculate else ''}"
        result.append(ours + peer)
    if bench.embedding and EMBED in args.scenarios:
        peer = f" beside {bench.embedding.gguf.name}" if bench.embedding.gguf else ""
        result.append(f"{bench.embedding.model.name}, {bench.embedding.recipe}{peer}")
    return result


def settings(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, for the JSON file."""
    result: dict[str, Any] = {"rounds": args.rounds, "sizes": asdict(bench.sizes)}
    if decoders(args):
        result |= {
            "model": bench.model.name,
            "peer_model": bench.peer_model.name,
            "recipe": bench.recipe,
            "kv": bench.kv,
            "temperature": bench.temperature,
            "speculate": bench.speculate,
        }
    if (found := bench.embedding) and EMBED in args.scenarios:
        result |= {
            "embed_model": found.model.name,
            "embed_recipe": found.recipe,
            "embed_gguf": found.gguf.name if found.gguf else None,
            "st_model": found.st_model.name if found.st_model else None,
        }
    return result


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
        "settings": settings(bench, args),
        "scenarios": {
            name: {"rounds": measured[name], "summary": [asdict(line) for line in found]}
            for name, found in results.items()
        },
    }


if __name__ == "__main__":
    main()
