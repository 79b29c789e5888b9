"""`appliance verify`: whether the store is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import rich_click as click

from appliance.cli.client import Client
from appliance.cli.formats import human_bytes
from appliance.cli.here import caretaker, server
from appliance.cli.progress import Statuses
from appliance.errors import ApplianceError


@click.command("verify")
@click.option("--remove", is_flag=True, help="Remove damaged blobs and bundles; loaded bundles stay.")
@click.option("--dry-run", is_flag=True, help="With --remove: only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(remove: bool, dry_run: bool, as_json: bool) -> None:
    """Read everything in the store and compare it with what was put there.

    Names what is damaged or missing, the models that need it and how to mend them, and then fails.
    """
    with server() as client, Statuses() as statuses:
        verified = _ask(client, remove, dry_run, statuses) if client else _look(remove, dry_run, statuses)
    click.echo(json.dumps(verified, indent=2) if as_json else verified_text(verified, dry_run), nl=as_json)
    if count := len(verified["flaws"]):
        raise ApplianceError(f"{count} damaged or missing")


def _ask(client: Client, remove: bool, dry_run: bool, statuses: Statuses) -> Mapping[str, Any]:
    event: dict[str, Any] = {}
    for event in client.stream("/api/verify", {"remove": remove, "dry_run": dry_run}):
        if event["status"] != "success":
            statuses.show(event["status"], event["completed"], event["total"])
    return {"size": event["total"], **{name: event[name] for name in ("blobs", "bundles", "flaws")}}


def _look(remove: bool, dry_run: bool, statuses: Statuses) -> Mapping[str, Any]:
    with caretaker(changing=remove and not dry_run) as care:
        steps = care.verify(remove=remove, dry_run=dry_run)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return asdict(end.value)
            statuses.show(step.status, step.completed, step.total)


def verified_text(verified: Mapping[str, Any], dry_run: bool) -> str:
    """A paragraph for each flaw, and the sum."""
    text = ""
    for flaw in verified["flaws"]:
        state = ("would be removed" if dry_run else "removed") if flaw["removed"] else ""
        text += f"{flaw['name']}: {flaw['problem']}{f' ({state})' if state else ''}\n"
        text += f"    needed by: {', '.join(flaw['models']) or 'no model'}\n    to mend: {flaw['mend']}\n"
    checked = f"{verified['blobs']} blobs and {verified['bundles']} bundles, {human_bytes(verified['size'])}"
    return f"{text}checked {checked}: {len(verified['flaws']) or 'nothing'} damaged or missing\n"
