"""`appliance prune`: remove what nothing uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import rich_click as click

from appliance.cli.formats import human_bytes
from appliance.cli.here import caretaker, server


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print what was removed as JSON.")
def command(dry_run: bool, as_json: bool) -> None:
    """Remove what nothing uses: blobs of no model, bundles of recipes that no model has any more, broken downloads.

    What a running server loads or makes is left alone. So is what a download wrote within ten minutes.
    """
    with server() as client:
        if client:
            pruned = client.call("POST", "/api/prune", {"dry_run": dry_run})
        else:
            with caretaker(changing=not dry_run) as care:
                found = care.prune(dry_run)
            pruned = {"dry_run": dry_run, "size": found.size, **asdict(found)}
    click.echo(json.dumps(pruned, indent=2) if as_json else pruned_text(pruned), nl=as_json)


def pruned_text(pruned: Mapping[str, Any]) -> str:
    """A line for each leftover, and the sum."""
    verb, sum_verb = ("would remove", "would free") if pruned["dry_run"] else ("removed", "freed")
    lines = [f"{verb} {each['name']} ({human_bytes(each['size'])}): {each['reason']}" for each in pruned["leftovers"]]
    if pruned["kept"]:
        lines.append(f"blobs and bundles are kept: {pruned['kept']}")
    lines.append(f"{sum_verb} {human_bytes(pruned['size'])}" if pruned["leftovers"] else "nothing to remove")
    return "\n".join(lines) + "\n"
