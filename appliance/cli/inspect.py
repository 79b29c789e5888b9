"""`appliance inspect`: whether a model would run here, before it is converted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from click.exceptions import Exit

from appliance.cli.completion import models_and_files
from appliance.cli.formats import human_bytes, human_count, human_span, section, table
from appliance.config import Settings, load_settings

if TYPE_CHECKING:
    from appliance.inspection import Verdict


@click.command("inspect")
@click.argument("source", shell_complete=models_and_files)
@click.option("--adapter", type=click.Path(path_type=Path), metavar="PATH", help="A LoRA to merge into it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(source: str, adapter: Path | None, as_json: bool) -> None:
    """Say whether SOURCE would run here.

    SOURCE is a GGUF file, a Hugging Face folder or an installed model. Only headers are read. Ends
    with 1 if the converters would refuse it or nothing fits the memory.
    """
    import asyncio

    from appliance.inspection import inspect

    settings = load_settings({}, os.environ)
    path, adapter = (Path(source), adapter) if Path(source).exists() else _installed(settings, source, adapter)
    verdict = asyncio.run(inspect(settings, path, adapter))
    facts = asdict(verdict) | {"fits_here": verdict.fits_here}
    click.echo(json.dumps(facts, indent=2) if as_json else _text(verdict), nl=as_json)
    if not verdict.fits_here:
        raise Exit(1)


def _installed(settings: Settings, name: str, adapter: Path | None) -> tuple[Path, Path | None]:
    """The file and the adapter of an installed model. Raises ModelNotFound."""
    from appliance.store.store import Store

    store = Store(settings.models, noprune=True, go_template=settings.go_template)
    model = store.model(name)  # which leaves alone what a server may be making
    return model.source(), adapter or model.adapter()


def _text(verdict: Verdict) -> str:
    return "".join(section(title, rows) for title, rows in _sections(verdict) if rows) + _recipes(verdict)


def _sections(verdict: Verdict) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    found = verdict.inspection
    rows = [
        ("architecture", found.architecture),
        ("kind", found.kind),
        ("parameters", human_count(found.parameters) if found.parameters else ""),
        ("context length", str(found.context_tokens or "")),
        ("supported", f"no: {found.refused}" if found.refused else "yes"),
    ]
    yield "Model", [row for row in rows if row[1]]
    if verdict.recipe:
        yield (
            "Here",
            [
                ("memory for models", human_bytes(verdict.budget_bytes)),
                ("recipe", f"{verdict.recipe}, {verdict.reason}"),
                ("fits", "yes" if verdict.fits_here else "no"),
            ],
        )


def _recipes(verdict: Verdict) -> str:
    """What each recipe takes, the chosen one with a star."""
    rows = []
    slots = sorted({count for fit in verdict.fits.values() for count in fit.contexts})
    for name, cost in verdict.inspection.recipes.items():
        if cost.refused:
            rows.append((name, "-", "-", "-", "-", *["-"] * len(slots)))
            continue
        fit = verdict.fits[name]
        rows.append(
            (
                f"{name} *" if name == verdict.recipe else name,
                human_bytes(cost.disk_bytes),
                human_bytes(cost.conversion_bytes),
                human_span(timedelta(seconds=cost.conversion_s)),
                human_bytes(fit.serving_bytes),
                *(str(fit.contexts[count]) for count in slots),
            )
        )
    head = ("RECIPE", "DISK", "TO CONVERT", "TIME", f"SERVING {verdict.context_tokens}")
    contexts = (f"CONTEXT OF {count}" if count > 1 else "LONGEST CONTEXT" for count in slots)
    refusals = (f"{name}: {cost.refused}\n" for name, cost in verdict.inspection.recipes.items() if cost.refused)
    return table((*head, *contexts), rows) + "".join(refusals) if rows else ""
