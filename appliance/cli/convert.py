"""`appliance convert`: a model file into a bundle, without a server."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import rich_click as click

from appliance.bundle import KV_TYPES, RECIPES
from appliance.cli.progress import Statuses
from appliance.conversion import run_converter
from appliance.errors import ApplianceError
from appliance.store.model import bundle_name


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The bundle's folder; must not exist.")
@click.option("--recipe", type=click.Choice(RECIPES), default="exact", show_default=True, help="How to convert.")
@click.option(
    "--kv", type=click.Choice(KV_TYPES), default="f32", show_default=True, help="How to cache keys and values."
)
def convert(source: Path, out: Path | None, recipe: str, kv: str) -> None:
    """Convert SOURCE into a bundle, by default beside it as NAME.RECIPE."""
    if not source.exists():
        raise ApplianceError(f"{source} does not exist")
    folder = out or source.with_name(f"{source.stem}.{bundle_name(recipe, kv)}")
    with Statuses() as statuses:
        asyncio.run(_convert(source, folder, recipe, kv, statuses))
    size = sum(path.stat().st_size for path in folder.iterdir())
    click.echo(f"converted '{source}' to '{folder}' ({size / 1e6:.0f} MB)")


async def _convert(source: Path, folder: Path, recipe: str, kv: str, statuses: Statuses) -> None:
    async with aclosing(run_converter(source, folder, recipe, kv)) as lines:
        async for line in lines:
            if status := line.get("status"):
                statuses.show(status, line["completed"], line["total"])
