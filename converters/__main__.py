"""`python -m converters SOURCE --out FOLDER [--recipe RECIPE] [--adapter PATH] [--check] [--json]`: convert one model.

With --json every line of standard output is an object: {"status", "completed", "total"} while it works, then
{"done": true, "bundle": {…}}, or {"error", "kind"} and exit status 1. Without it, progress goes to a terminal's
standard error and nothing else is printed but an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.bundle import KV_TYPES, RECIPES, TARGETS
from appliance.errors import ApplianceError, ConversionFailed
from converters.bundle import convert
from converters.inspection import inspect
from converters.peft import convert_adapter

INTERVAL_S = 0.1
STATUS = "converting model"


class Reporter:
    """Prints progress, at most once in INTERVAL_S."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.last = float("-inf")

    def progress(self, completed: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last < INTERVAL_S and completed < total:
            return
        self.last = now
        if self.as_json:
            self.line({"status": STATUS, "completed": completed, "total": total})
        elif sys.stderr.isatty():
            end = "\n" if completed == total else ""
            print(f"\r{STATUS} {completed / max(total, 1):4.0%}", end=end, file=sys.stderr, flush=True)

    def line(self, facts: dict[str, Any]) -> None:
        print(json.dumps(facts), flush=True)

    def error(self, error: ApplianceError) -> None:
        if self.as_json:
            self.line({"error": str(error), "kind": type(error).__name__})
        else:
            print(f"Error: {error}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m converters", description="Convert a model to an ONNX bundle.")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a GGUF file or a folder")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the bundle to make")
    parser.add_argument("--recipe", choices=RECIPES, default="exact", help="how weights are stored")
    parser.add_argument("--kv", choices=KV_TYPES, default="f32", help="how keys and values are cached")
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="the execution provider that will run it")
    parser.add_argument("--adapter", type=Path, metavar="PATH", help="a LoRA to merge: a GGUF file or a PEFT folder")
    parser.add_argument("--adapter-only", action="store_true", help="make a GGUF file of a PEFT folder instead")
    parser.add_argument("--floor", type=int, default=0, metavar="BYTES", help="disk space to leave free")
    parser.add_argument("--inspect", action="store_true", help="only say what a conversion would take; needs --json")
    parser.add_argument("--check", action="store_true", help="hold the bundle against the source in float32")
    parser.add_argument("--json", action="store_true", help="report in lines of JSON")
    options = parser.parse_args(arguments)
    if not (options.out or options.inspect):
        parser.error("--out says where the bundle is to be")
    reporter = Reporter(options.json)
    try:
        done = _run(options, reporter)
    except ApplianceError as error:
        reporter.error(error)
        return 1
    except OSError as error:
        reporter.error(ConversionFailed(f"the model cannot be converted: {error.strerror}"))
        return 1
    except Exception as error:
        traceback.print_exc()
        reporter.error(ConversionFailed(f"the converter failed: {type(error).__name__}"))
        return 1
    if options.json:
        reporter.line({"done": True, **done})
    return 0


def _run(options: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """What the last line says beside "done"."""
    if options.inspect:
        return {"inspection": asdict(inspect(options.source, options.adapter))}
    if options.adapter_only:
        convert_adapter(options.adapter, options.source, options.out)
        return {}
    how = options.recipe, reporter.progress, options.kv, options.check, options.target
    wanted = *how, options.adapter, options.floor
    return {"bundle": asdict(convert(options.source, options.out, *wanted))}


if __name__ == "__main__":
    sys.exit(main())
