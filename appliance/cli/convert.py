"""`appliance convert`: a model file into a bundle, without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import rich_click as click

from appliance.cli.progress import Statuses
from appliance.config import RECIPES
from appliance.errors import ApplianceError, ConversionFailed


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The bundle's folder; must not exist.")
@click.option("--recipe", type=click.Choice(RECIPES), default="exact", show_default=True, help="How to convert.")
def convert(source: Path, out: Path | None, recipe: str) -> None:
    """Convert SOURCE into a bundle, by default beside it as NAME.RECIPE."""
    if not source.exists():
        raise ApplianceError(f"{source} does not exist")
    folder = out or source.with_name(f"{source.stem}.{recipe}")
    with Statuses() as statuses:
        _run_converter([str(source), "--out", str(folder), "--recipe", recipe], statuses)
    size = sum(path.stat().st_size for path in folder.iterdir())
    click.echo(f"converted '{source}' to '{folder}' ({size / 1e6:.0f} MB)")


def _run_converter(arguments: list[str], statuses: Statuses) -> None:
    """Run the converters in a process of their own; raises ConversionFailed with what they say."""
    command = [sys.executable, "-m", "converters", *arguments, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout is not None
        done = False
        try:
            for line in process.stdout:
                event = _event(line)
                if error := event.get("error"):
                    raise ConversionFailed(error)
                done = done or bool(event.get("done"))
                if status := event.get("status"):
                    statuses.show(status, event.get("completed", 0), event.get("total", 0))
        except BaseException:
            process.terminate()
            raise
    if not done:
        raise ConversionFailed(f"the converter ended without a result (exit code {process.returncode})")


def _event(line: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise ConversionFailed(f"the converter said something else than JSON: {line.strip()}") from error
    return event
