"""`appliance convert`: a model file or folder into a bundle, without a server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from appliance.bundle import KV_TYPES, RECIPES, TARGETS
from appliance.cli.formats import section
from appliance.config import load_settings
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.cli.progress import Statuses

WORST_TENSORS = 5  # that are shown


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The bundle's folder; must not exist.")
@click.option("--recipe", type=click.Choice(RECIPES), default="exact", show_default=True, help="How to convert.")
@click.option(
    "--kv", type=click.Choice(KV_TYPES), default="f32", show_default=True, help="How to cache keys and values."
)
@click.option(
    "--target", type=click.Choice(TARGETS), default="cpu", show_default=True, help="The provider that will run it."
)
@click.option("--adapter", type=click.Path(path_type=Path), metavar="PATH", help="A LoRA to merge into it.")
@click.option(
    "--check", is_flag=True, help="Hold the bundle against the source's values in float32, and say how close."
)
def command(
    source: Path, out: Path | None, recipe: str, kv: str, target: str, adapter: Path | None, check: bool
) -> None:
    """Convert SOURCE into a bundle.

    It is made beside SOURCE as NAME.RECIPE, unless --out says otherwise. A bundle for cuda or directml has a float16
    graph, whose runs have one sequence or a token each of several.
    """
    import asyncio

    from appliance.cli.progress import Statuses
    from appliance.store.model import bundle_name

    for path in filter(None, (source, adapter)):
        if not path.exists():
            raise ApplianceError(f"{path} does not exist")
    source = source.resolve() if source.is_dir() else source  # "." has no name
    name = source.name if source.is_dir() else source.stem
    folder = out or source.with_name(f"{name}.{bundle_name(recipe, kv, target)}")
    with Statuses() as statuses:
        bundle = asyncio.run(_convert(source, folder, (recipe, kv, target), adapter, check, statuses))
    size = sum(path.stat().st_size for path in folder.iterdir())
    click.echo(f"converted '{source}' to '{folder}' ({size / 1e6:.0f} MB)")
    if check:
        click.echo("".join(section(title, rows) for title, rows in _report(bundle["report"]) if rows), nl=False)


async def _convert(
    source: Path, folder: Path, choice: tuple[str, str, str], adapter: Path | None, check: bool, statuses: Statuses
) -> Mapping[str, Any]:
    """`choice` is recipe, KV cache type and target. Returns the bundle's description."""
    from appliance.conversion import run_converter

    recipe, kv, target = choice
    floor = load_settings({}, os.environ).disk_floor_bytes
    running = run_converter(source, folder, recipe, kv, adapter=adapter, check=check, target=target, floor=floor)
    async with aclosing(running) as lines:
        async for line in lines:
            if status := line.get("status"):
                statuses.show(status, line["completed"], line["total"])
    bundle: Mapping[str, Any] = line["bundle"]
    return bundle


def _report(report: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """What a check found, in sections."""
    found, tokenizer, errors = report.get("fidelity"), report["tokenizer"], report["tensors"]
    if found:
        unit = "texts" if "texts" in found else "tokens"
        rows = _of_texts(found) if unit == "texts" else _of_tokens(found)
        yield f"Against the source in float32, {found[unit]} {unit}", rows
    yield (
        "Tokenizer",
        [
            ("tokens", str(tokenizer["tokens"])),
            ("words changed there and back", str(tokenizer["changed_words"])),
        ],
    )
    worst = sorted(errors.items(), key=lambda item: -item[1])[:WORST_TENSORS]
    yield "Largest relative errors of weights", [(name, f"{100 * error:.2f} %") for name, error in worst]


def _of_tokens(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """How close a model that writes comes."""
    return [
        ("NLL", f"{found['nll']:.4f}"),
        ("source's NLL", f"{found['source_nll']:.4f}"),
        ("difference", f"{found['nll'] - found['source_nll']:+.4f}"),
        ("same first choice", f"{100 * found['top1']:.1f} %"),
        ("KL divergence", f"{found['kl']:.4f}"),
        ("bar", found["bar"]),
    ]


def _of_texts(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """How close a model that embeds or ranks comes."""
    if "score_error" in found:
        return [("error of scores, in standard deviations", f"{found['score_error']:.4f}"), ("bar", found["bar"])]
    return [
        ("cosine", f"{found['cosine']:.4f}"),
        ("least cosine", f"{found['least_cosine']:.4f}"),
        ("bar", found["bar"]),
    ]
