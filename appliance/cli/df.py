"""`appliance df`: what the models take of the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import rich_click as click

from appliance.cli.formats import human_bytes, section, table
from appliance.cli.here import caretaker, server


@click.command("df")
@click.option("--json", "as_json", is_flag=True, help="Print bytes, as JSON.")
def command(as_json: bool) -> None:
    """Show what the models take of the disk, what else is in their folder, and what is left.

    ALONE is what no other model shares, so what removing the model frees besides its bundles.
    """
    with server() as client:
        if client:
            usage = client.call("GET", "/api/df")
        else:
            with caretaker(changing=False) as care:
                usage = asdict(care.disk_usage())
    click.echo(json.dumps(usage, indent=2) if as_json else usage_text(usage), nl=as_json)


def usage_text(usage: Mapping[str, Any]) -> str:
    """The table of models, and the sums."""
    columns = ("size", "alone", "bundles")
    rows = [(model["name"], *(human_bytes(model[name]) for name in columns)) for model in usage["models"]]
    kept = f", {human_bytes(usage['floor'])} of them kept free" if usage["floor"] else ""
    sums = [
        ("models", human_bytes(usage["blobs"])),
        ("bundles", human_bytes(usage["bundles"])),
        ("beginnings of prompts", human_bytes(usage["prefixes"])),
        ("partial files", human_bytes(usage["partial"])),
        ("unused blobs", human_bytes(usage["unused"])),
        ("free", f"{human_bytes(usage['free'])} of {human_bytes(usage['disk'])}{kept}"),
    ]
    return table(("NAME", "SIZE", "ALONE", "BUNDLES"), rows) + "\n" + section("Disk", sums)
